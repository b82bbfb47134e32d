# SPDX-License-Identifier: Apache-2.0
"""One generation of an agent's programs after the other, without missing an event."""

from __future__ import annotations

import ctypes
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from kmind.abi import layout
from kmind.agent.kernel.generation import Generation, read_state
from kmind.bpf import open_map
from kmind.errors import BpfError
from kmind.util.steps import Step, nothing

__all__ = ["find_active", "hand_over_steps", "settle"]

_LEAVING = layout.PHASE["LEAVING"]
_ENTERING = layout.PHASE["ENTERING"]
_PHASES = _LEAVING | _ENTERING
# linux/membarrier.h, and the call's numbers: x86-64, and the generic table (arm64).
_MEMBARRIER_GLOBAL = 1 << 0
_NR_MEMBARRIER = 324 if platform.machine() == "x86_64" else 283
_SETTLE_S = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


def hand_over_steps(
    old: Generation, new: Generation, deferred: frozenset[str], *, running: bool
) -> list[Step]:
    """The steps that let ``new`` work in the place of ``old``, which stays attached behind them.

    The word that says which of them works goes through four values, with a grace period
    after each, so that no event sees two of them: km_is_active() in kmind/agent.h says how. Undone,
    it goes back the same way, and each event is taken once, too.
    """
    before = set(old.attached())
    wanted = {
        name for name in new.hooks if new.choice.hook_of(name) not in deferred or name in before
    }
    both = before & wanted if running else set[str]()
    # Only hooks of both can be handed over; others would leave notes that nobody takes.
    lone, added = before - both, wanted - both if running else set[str]()

    def attach(name: str) -> Step:
        return Step(f"attaching {name}", partial(new.attach, name), partial(new.detach, name))

    def detach(name: str) -> Step:
        return Step(f"detaching {name}", partial(old.detach, name), partial(_again, old, name))

    def word(forth: int, back: int) -> Step:
        return Step(
            f"word {forth:#x}", partial(_write_word, new, forth), partial(_write_word, old, back)
        )

    leaving, entering = old.number | _LEAVING, new.number | _ENTERING
    return [
        *map(attach, sorted(both)),
        *map(detach, sorted(lone)),
        Step("waiting for hooks", settle),
        word(leaving, old.number),
        Step("the old tick", nothing, partial(_tick, old, running)),
        word(entering, old.number | _PHASES),
        Step(
            "the new tick", partial(_tick, new, running)
        ),  # ends by itself once it is not its turn
        word(new.number, entering),
        *map(attach, sorted(added)),
    ]


def _write_word(generation: Generation, word: int) -> None:
    generation.control("ACTIVE", value=word)
    settle()


def _tick(generation: Generation, running: bool) -> None:
    if running:
        generation.control("START")


def _again(generation: Generation, name: str) -> None:
    if not generation.is_attached(name):
        generation.attach(name)


def find_active(
    folder: Path, hooks: Mapping[str, str], alternatives: Mapping[str, Sequence[str]]
) -> Generation:
    """The generation below an agent's folder that works; the pins of others are removed.

    An owner that ended in the middle of an upgrade leaves two, one of them with all of its
    pins. Which of them works is what the kernel's side says, by the state that they share.
    Raises BpfError if nothing says it, or the one that works has lost pins.
    """
    numbers = _generations(folder)
    if not numbers:
        raise BpfError(f"no agent is pinned at {folder}", hint="load its instance again")
    active = _read_active(folder, numbers)
    number = active & ~_PHASES
    chosen = _open(folder, number, hooks, alternatives)
    try:
        if active != number:
            settle()  # for what began before its owner was killed
        _write_word(chosen, number)
    except BaseException:
        chosen.close()
        raise
    for other in numbers:
        if other != number:
            shutil.rmtree(folder / str(other), ignore_errors=True)
    return chosen


def _generations(folder: Path) -> list[int]:
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _read_active(folder: Path, numbers: Sequence[int]) -> int:
    cause: Exception | None = None
    for number in numbers:
        try:
            with open_map(folder / str(number) / "maps" / "state") as state:
                return int(read_state(state)["active"])
        except (OSError, BpfError) as error:  # half pinned, or half removed
            cause = error
    raise _incomplete(folder, cause)


def _open(
    folder: Path,
    number: int,
    hooks: Mapping[str, str],
    alternatives: Mapping[str, Sequence[str]],
) -> Generation:
    try:
        return Generation.open(folder / str(number), hooks, alternatives)
    except (OSError, BpfError) as error:
        raise _incomplete(folder, error) from None


def _incomplete(folder: Path, cause: Exception | None) -> BpfError:
    return BpfError(
        f"the pins of the agent at {folder} are not complete: {cause}",
        hint=f"load its instance again, after: rm -r {folder}",
    )


def settle() -> None:
    """Wait until each hook that runs now has ended."""
    # MEMBARRIER_CMD_GLOBAL waits for a grace period of RCU (kernel/sched/membarrier.c), but
    # is refused under nohz_full.
    if _libc.syscall(_NR_MEMBARRIER, _MEMBARRIER_GLOBAL, 0, 0) != 0:
        time.sleep(_SETTLE_S)
