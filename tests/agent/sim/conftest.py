# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent.both import Pair


@pytest.fixture
def pair(bare: Path, each_shape: str) -> Iterator[Pair]:
    made = Pair(bare)
    yield made
    made.close()
