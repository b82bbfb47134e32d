# SPDX-License-Identifier: Apache-2.0
"""Clean up after ended processes: changed knobs, and cgroups of ``kmind run``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmind import events
from kmind.errors import KmindError
from kmind.events import Emit
from kmind.guard import Journal, Owner, Policy, restore
from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup, list_cgroups
from kmind.util.names import file_name

__all__ = ["remove_dead_runs", "restore_leftovers", "restoring", "run_cgroup"]

_RUN = re.compile(r"^run-(\d+)-(\d+)\.")


def restore_leftovers(
    journal: Journal,
    policy: Policy | None,
    emit: Emit,
    *,
    is_abandoned: Callable[[Owner], bool] = lambda owner: False,
) -> KmindError | None:
    """Put back the knobs that dead owners left changed, and tell of each.

    Those of running owners are theirs, and not spoken of, unless ``is_abandoned`` says that their
    instance has ended. Without a policy all go back. Returns what kept the journal from being
    written, if anything did.
    """
    done = restore(journal, policy, is_abandoned=is_abandoned)
    for outcome in done.restored:
        emit(
            events.Restored(
                knob=outcome.knob,
                target=outcome.target,
                found=outcome.found,
                value=outcome.to,
            )
        )
    for outcome in done.skipped:
        if outcome.why and "which is running" not in outcome.why:
            message = f"{outcome.knob} of {outcome.target} is not put back: {outcome.why}"
            emit(events.Log(message=message))
    return done.unrecorded


@contextmanager
def restoring(policy: Policy | None, emit: Emit) -> Iterator[Callable[[Journal], None]]:
    """Put back what dead owners left, be it that the new one cannot begin.

    Gives what does so with the new owner's journal, and raises JournalError or BusyError if that
    cannot be written. Where a KmindError comes before (a full disk, a store of a later kmind, a
    wrong policy) it is done all the same, and the error passes on: nothing stops an undo.
    """
    begun = False

    def put_back(journal: Journal) -> None:
        nonlocal begun
        begun = True
        if unrecorded := restore_leftovers(journal, policy, emit):
            raise unrecorded

    try:
        yield put_back
    except KmindError:
        if not begun:
            with suppress(KmindError), Journal.rescue() as journal:
                restore_leftovers(journal, policy, emit)
        raise


def run_cgroup(name: str) -> str:
    """The cgroup of the extension of a ``kmind run``: it names the process that made it.

    By its number and the PID namespace that this holds in (pid_namespaces(7)): other ones see the
    same cgroups, and another process, or none, under that number.
    """
    return f"run-{os.getpid()}-{_pid_namespace()}.{file_name(name)}"


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def remove_dead_runs() -> None:
    """Remove the cgroups of ``kmind run`` processes that have ended.

    Of those of other PID namespaces nothing is known here: they are left alone.
    """
    own = _pid_namespace()
    for name in list_cgroups():
        match = _RUN.match(name)
        if match and int(match[2]) == own and not Path(f"/proc/{match[1]}").exists():
            with suppress(KmindError):
                ExtensionCgroup.adopt(name).close()
