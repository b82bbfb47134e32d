# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmind.knobs import (
    Target,
)
from kmind.knobs._cgroup import cgroup_mounts


@pytest.fixture
def cgroup() -> Iterator[Target]:
    """A cgroup of the test's own, in each hierarchy that lets it be made."""
    name = f"kmind-test-{os.getpid()}"
    made = []
    for point in set(cgroup_mounts(Path("/")).values()):
        try:
            (point / name).mkdir()
        except OSError:
            continue
        made.append(point / name)
    try:
        yield Target.cgroup(f"/{name}")
    finally:
        for folder in made:
            folder.rmdir()
