# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.adversaries import SUBJECT

from kmind.bench._adversary_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(SUBJECT, tmp_path, seed=1) as made:
        yield made
