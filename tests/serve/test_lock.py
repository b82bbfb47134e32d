# SPDX-License-Identifier: Apache-2.0
"""One daemon at a time."""

import os
import signal
import time
from pathlib import Path

import pytest

from kmind.errors import KmindError
from kmind.serve.lock import DaemonLock, running_daemon


def test_the_second_is_refused_and_told_who(tmp_path: Path) -> None:
    assert running_daemon(tmp_path) is None
    lock = DaemonLock(tmp_path / "run")
    assert running_daemon(tmp_path / "run") == os.getpid()
    with pytest.raises(KmindError, match=f"a daemon runs already: pid {os.getpid()}"):
        DaemonLock(tmp_path / "run")
    lock.release()
    assert running_daemon(tmp_path / "run") is None
    DaemonLock(tmp_path / "run").release()


@pytest.mark.fault
def test_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        DaemonLock(tmp_path)
        (tmp_path / "held").touch()
        time.sleep(600)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    assert running_daemon(tmp_path) == pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert running_daemon(tmp_path) is None
    DaemonLock(tmp_path).release()


def test_who_may_not_open_it_cannot_hold_it(tmp_path: Path) -> None:
    DaemonLock(tmp_path).release()
    assert (tmp_path / "daemon.lock").stat().st_mode & 0o777 == 0o600
