# SPDX-License-Identifier: Apache-2.0
"""Running a command that measures: as somebody without privileges, bounded in all respects."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Literal

from kmind.errors import KmindError, UsageError

__all__ = ["GapError", "GapName", "check_user", "run_command"]

GapName = Literal["failed", "timeout", "empty", "text", "range"]
"""Why there is no value: ``enum kmind_gap``, in lower case."""

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
    except KeyError:
        raise UsageError(f"there is no user {name!r}", hint="name one, or: nobody") from None


def run_command(
    words: list[str], timeout_s: float, user: str, cancelled: Callable[[], bool]
) -> str:
    """What it prints, at most 4 KiB. Raises GapError; then nothing of it runs on.

    As root it becomes ``user``, with no other groups and no capabilities. It has a
    session of its own, an empty standard input, and nobody reads what it complains.
    """
    who: dict[str, object] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
            **who,  # type: ignore[call-overload]
        )
    except OSError as error:
        raise GapError("failed", f"{words[0]} cannot be run: {error.strerror}") from None
    try:
        text = _read(process, time.monotonic() + timeout_s, timeout_s, cancelled)
    finally:
        # It may have left others behind that hold on to its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    return text


def _read(
    process: subprocess.Popen[bytes], until: float, timeout_s: float, cancelled: Callable[[], bool]
) -> str:
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    os.set_blocking(process.stdout.fileno(), False)
    parts: list[bytes] = []
    open_ = True
    while open_ or process.poll() is None:
        left = until - time.monotonic()
        if left <= 0 or cancelled():
            raise GapError("timeout", f"it did not end within {timeout_s:g} s")
        if not open_:
            time.sleep(min(left, _LOOK_S / 10))
        elif poll.poll(min(left, _LOOK_S) * 1000):
            part = process.stdout.read(_MOST_TEXT) or b""
            open_ = bool(part)
            parts.append(part)
            if sum(map(len, parts)) > _MOST_TEXT:
                raise GapError("text", f"it printed more than {_MOST_TEXT} bytes")
    if process.returncode:
        how = f"ended with status {process.returncode}"
        if process.returncode < 0:
            how = f"was killed by signal {-process.returncode}"
        raise GapError("failed", f"it {how}")
    return b"".join(parts).decode("utf-8", "replace")
