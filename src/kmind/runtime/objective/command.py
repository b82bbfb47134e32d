# SPDX-License-Identifier: Apache-2.0
"""Running a command that measures: as somebody without privileges, bounded in all respects."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from kmind.errors import KmindError, PrivilegeError, UsageError
from kmind.paths import CONF_FOLDERS

__all__ = ["Command", "GapError", "GapName", "check_user", "refuse_other_user"]

GapName = Literal["failed", "timeout", "empty", "text", "range"]
"""Reasons for a missing value: ``enum kmind_gap``, in lower case."""

_NOBODY = "nobody"
_MOST_TEXT = 4096
_LOOK_S = 0.1
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class GapError(KmindError):
    """There is no value of an objective; ``kind`` says why."""

    def __init__(self, kind: GapName, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def check_user(name: str) -> None:
    """UsageError unless there is such an account."""
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise UsageError(f"there is no user {name[:80]!r}", hint="name one, or: nobody") from None


def refuse_other_user(name: str, asker: int) -> None:
    """PrivilegeError unless ``asker``, a user id, may have a command run as the user ``name``.

    Root may name any. Others may name ``nobody``, and themselves: as those they gain nothing that
    they could not do without kmind.
    """
    uid = pwd.getpwnam(name).pw_uid
    if asker in (0, uid) or (name == _NOBODY and uid != 0):
        return
    raise PrivilegeError(
        f"only root may have a command run as the user {name[:80]!r}",
        hint=f"leave user at {_NOBODY}, or let root set the objective and its user in "
        f"{CONF_FOLDERS[-1]}",
    )


class Command:
    """A command that measures.

    As root it becomes ``user``, with no other groups and no capabilities. It has a session of
    its own, an empty standard input, and nobody reads what it complains.
    """

    def __init__(self, words: list[str], timeout_s: float, user: str) -> None:
        self.timeout_s = timeout_s
        self._words = words
        self._user = user
        self._lock = threading.Lock()
        self._group = 0  # of the process that runs: nobody has reaped it while this is set

    def run(self, cancelled: Callable[[], bool]) -> str:
        """Run it; what it prints, at most 4 KiB. Raises GapError; then nothing of it runs on."""
        process = self._start()
        with self._lock:
            self._group = process.pid
        try:
            text = _read(process, time.monotonic() + self.timeout_s, self.timeout_s, cancelled)
        finally:
            # It may have left others behind that hold on to its group.
            self.cancel()
            with self._lock:
                self._group = 0
            assert process.stdout is not None
            process.stdout.close()
            process.wait()
        if process.returncode:
            how = f"ended with status {process.returncode}"
            if process.returncode < 0:
                how = f"was killed by signal {-process.returncode}"
            raise GapError("failed", f"it {how}")
        return text

    def cancel(self) -> None:
        """Kill it with its process group, and wait for nothing; from any thread."""
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._group:
                os.killpg(self._group, signal.SIGKILL)

    def _start(self) -> subprocess.Popen[bytes]:
        who: dict[str, Any] = {}
        try:
            if os.geteuid() == 0:
                account = pwd.getpwnam(self._user)
                who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            process: subprocess.Popen[bytes] = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
                **who,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it has invalid syntax"
            raise GapError("failed", f"{self._words[0]} cannot be run: {why}") from None
        except KeyError:
            raise GapError("failed", f"there is no user {self._user!r} any more") from None
        return process


def _read(
    process: subprocess.Popen[bytes], until: float, timeout_s: float, cancelled: Callable[[], bool]
) -> str:
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    os.set_blocking(process.stdout.fileno(), False)
    text = b""
    open_ = True
    while open_ or not _has_ended(process.pid):
        left = until - time.monotonic()
        if left <= 0 or cancelled():
            raise GapError("timeout", f"it did not end within {timeout_s:g} s")
        if not open_:
            time.sleep(min(left, _LOOK_S / 10))
        elif poll.poll(min(left, _LOOK_S) * 1000):
            part = process.stdout.read(_MOST_TEXT) or b""
            open_ = bool(part)
            text += part
            if len(text) > _MOST_TEXT:
                raise GapError("text", f"it printed more than {_MOST_TEXT} bytes")
    return text.decode("utf-8", "replace")


def _has_ended(pid: int) -> bool:
    # Without reaping it, so that its number stays its own until its group is killed.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
