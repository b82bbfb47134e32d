# SPDX-License-Identifier: Apache-2.0
"""The dirty module."""

import pytest

from kmind.testing.contract import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: Check) -> None:
    check("dirty")
