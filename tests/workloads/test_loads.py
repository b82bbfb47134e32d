# SPDX-License-Identifier: Apache-2.0
"""Loads that run while something else is measured: they count, and leave nothing behind."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel.attacked import eventually

from kmind.errors import KmindError, NotSupportedError
from kmind.workloads import loads
from kmind.workloads.loads import start_load


def children() -> set[str]:
    """Children of this process, by all its threads (proc(5))."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def test_load_counts_and_ends(tmp_path: Path) -> None:
    before = children()
    with start_load("build", tmp_path, quick=True) as count:
        first = count()
        assert first > 0
        eventually(lambda: count() > first)
    assert children() == before


def test_program_that_ends_says_why(tmp_path: Path) -> None:
    with (
        loads._counted(tmp_path, "import sys; sys.exit('no room')", []) as count,
        pytest.raises(KmindError, match="no room"),
    ):
        eventually(lambda: count() < 0)


def test_load_that_does_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def idle(folder: Path, quick: bool) -> Iterator[loads.Count]:
        yield lambda: 0.0

    monkeypatch.setattr(loads, "LOADS", {"idle": idle})
    monkeypatch.setattr(loads, "_START_S", 0.1)
    with pytest.raises(KmindError, match="load idle does nothing"), start_load("idle", tmp_path):
        pass


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(NotSupportedError, match="redis-server"),
        start_load("redis", tmp_path, quick=True),
    ):
        pass
