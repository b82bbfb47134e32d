# SPDX-License-Identifier: Apache-2.0
"""A core object of each test's own, pinned or not."""

import contextlib
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import compile_bpf
from renamers import RENAMES

from kmind.agent.core.core import Core


@pytest.fixture(scope="session")
def renames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_bpf(RENAMES, tmp_path_factory.mktemp("renames") / "renames.bpf.o")


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Ids of processes that are not to outlive the test, if it fails half-way."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def root() -> Iterator[Path]:
    """Path for the pins of a core; everything below it is removed after the test."""
    made = Path(f"/sys/fs/bpf/kmind-test-{uuid.uuid4().hex[:12]}")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def core() -> Iterator[Core]:
    """One without pins."""
    with Core.private() as made:
        yield made
