# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loads")
