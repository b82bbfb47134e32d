# SPDX-License-Identifier: Apache-2.0
"""One generation of an agent's programs after the other, without missing an event."""

from __future__ import annotations

import ctypes
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from kmind.abi import layout
from kmind.agent._generation import Generation
from kmind.errors import BpfError

__all__ = ["find_active", "hand_over", "settle"]

_LEAVING = layout.PHASE["LEAVING"]
_ENTERING = layout.PHASE["ENTERING"]
_PHASES = _LEAVING | _ENTERING
# linux/membarrier.h, and the call's numbers: x86-64, and the generic table (arm64).
_MEMBARRIER_GLOBAL = 1 << 0
_NR_MEMBARRIER = 324 if platform.machine() == "x86_64" else 283
_SETTLE_S = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


def hand_over(old: Generation, new: Generation, deferred: frozenset[str], *, running: bool) -> None:
    """Let ``new`` work in the place of ``old``, which has no hook attached afterwards.

    The word that says which of them works goes through four steps, with a grace period
    after each, so that no event sees two of them: km_is_active() in agent.h says how.
    If it fails before the last step but one, ``old`` works on.
    """
    before = set(old.attached())
    wanted = {name for name in new.hooks if name not in deferred or name in before}
    both = before & wanted if running else set[str]()
    # Only hooks of both can be handed over; others would leave notes that nobody takes.
    lone = before - both
    try:
        for name in sorted(both):
            new.attach(name)
        for name in sorted(lone):
            old.detach(name)
        settle()
        new.control("ACTIVE", value=old.number | _LEAVING)
        settle()
    except BaseException:
        new.control("ACTIVE", value=old.number)
        for name in new.attached():
            new.detach(name)
        for name in sorted(lone):
            old.attach(name)
        raise
    new.control("ACTIVE", value=new.number | _ENTERING)
    settle()
    new.control("ACTIVE", value=new.number)
    if running:
        new.control("START")
        for name in sorted(wanted - both):
            new.attach(name)
    for name in before:
        old.detach(name)


def find_active(folder: Path, hooks: Mapping[str, str]) -> Generation:
    """The generation below an agent's folder that works; what else is there is removed.

    An owner that ended in the middle of an upgrade leaves two: which of them works is
    what the kernel's side says.
    """
    numbers = sorted(int(path.name) for path in folder.iterdir()) if folder.is_dir() else []
    if not numbers:
        raise BpfError(f"no agent is pinned at {folder}", hint="load its instance again")
    chosen = _open(folder, numbers[0], hooks)
    active = int(chosen.read_head()["active"])
    number = active & ~_PHASES
    if number != chosen.number:
        chosen.close()
        chosen = _open(folder, number, hooks)
    chosen.control("ACTIVE", value=number)
    for other in numbers:
        if other != number:
            shutil.rmtree(folder / str(other), ignore_errors=True)
    return chosen


def _open(folder: Path, number: int, hooks: Mapping[str, str]) -> Generation:
    path = folder / str(number)
    try:
        return Generation.open(path, hooks)
    except (OSError, BpfError) as error:
        raise BpfError(
            f"the pins of the agent at {path} are not complete: {error}",
            hint=f"load its instance again, after: rm -r {folder}",
        ) from None


def settle() -> None:
    """Wait until each hook that runs now has ended."""
    # MEMBARRIER_CMD_GLOBAL waits for a grace period of RCU (kernel/sched/membarrier.c), but
    # is refused under nohz_full.
    if _libc.syscall(_NR_MEMBARRIER, _MEMBARRIER_GLOBAL, 0, 0) != 0:
        time.sleep(_SETTLE_S)
