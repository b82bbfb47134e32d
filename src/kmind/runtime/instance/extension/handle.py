# SPDX-License-Identifier: Apache-2.0
"""The user half of an instance: the extension's process, its cgroup and its heartbeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from kmind.abi import layout
from kmind.agent.protocol import OwnedAgent
from kmind.errors import KmindError
from kmind.extension import KnobInfo, Module, Value
from kmind.knobs import Target
from kmind.queue import open_tables
from kmind.runtime.experiment.measure.effort import Effort, read_effort
from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup
from kmind.runtime.sandbox.config import CgroupEntry, ChildConfig, DeviceEntry, TableEntry
from kmind.runtime.sandbox.exit_codes import EXIT_MODULE, EXIT_SETUP
from kmind.runtime.sandbox.inbox import Inbox
from kmind.runtime.sandbox.process import ENDED_UNSEEN, ExtensionProcess
from kmind.runtime.sandbox.state import ProcessState
from kmind.runtime.sandbox.uids import free_uid
from kmind.runtime.services import Sandbox

__all__ = ["ExtensionHandle"]

_UNLIMITED_S = 10.0  # for imports, which take a second or two


class ExtensionHandle:
    """One extension that was started or adopted. One thread may use it."""

    def __init__(
        self,
        agent: OwnedAgent,
        process: ExtensionProcess,
        cgroup: ExtensionCgroup | None,
        *,
        inbox: Inbox,
        uid: int | None,
        log: str,
    ) -> None:
        self.uid = uid
        self._inbox = inbox
        self._process = process
        self._cgroup = cgroup
        self._log = log
        self._heartbeat = agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)["heartbeat"]
        self._first_beat = int(self._heartbeat[0])
        self._unlimited_until: float | None = None

    @classmethod
    def start(
        cls,
        name: str,
        module: Module,
        target: Target,
        params: Mapping[str, Value],
        knobs: Mapping[str, KnobInfo],
        agent: OwnedAgent,
        *,
        inbox: Inbox,
        sandbox: Sandbox,
        beat_s: float,
        first_id: int,
        memory: bytes,
        device: DeviceEntry | None,
        tell: Callable[[str], None],
    ) -> ExtensionHandle:
        """Start it. Raises KmindError; nothing is left then.

        ``memory`` is JSON that it is given, if not empty; ``inbox`` gets what it
        hands over. A driver's serves ``device``. ``tell`` is told what of the sandbox this
        machine lacks.
        """
        manifest = module.manifest
        # Raises where the agent is of an earlier version of the module, with other tables.
        open_tables(agent.table_fds, [part.shape for part in manifest.tables])
        uid = free_uid(f"{name}/{os.getpid()}") if os.geteuid() == 0 else None
        if uid is None:
            tell("not root: the extension runs with your privileges")
        cgroup = _cgroup(sandbox, module, tell) if uid is not None else None
        config = ChildConfig(
            package=module.package,
            folder=str(module.folder),
            entry=manifest.extension.entry,
            imports=manifest.extension.imports,
            module=manifest.name,
            target=target.name,
            params=dict(params),
            features=manifest.columns,
            knobs=dict(knobs),
            arena=agent.arena_fd,
            address=agent.arena_address,
            size=agent.arena_size,
            doorbell=agent.doorbell_fd,
            beat_s=beat_s,
            uid=uid,
            parent=os.getpid(),
            first_id=first_id,
            memory=msgspec.Raw(memory or b"null"),
            keep=bool(sandbox.log),
            log=sandbox.log,
            files=manifest.sandbox.files,
            network=manifest.sandbox.network,
            tables=tuple(
                TableEntry(fd=agent.table_fds[part.name], part=part) for part in manifest.tables
            ),
            findings=tuple(part.name for part in manifest.findings),
            reports=tuple(part.name for part in manifest.reports),
            cgroup=cgroup.entry()
            if cgroup
            else CgroupEntry(data_bytes=manifest.limits.memory_mib << 20),
            device=device,
        )
        header = agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)
        header["heartbeat"][0] = 0
        try:
            process = ExtensionProcess(config)
        except BaseException:
            if cgroup:
                cgroup.close()
            raise
        inbox.set_manifest(manifest)
        extension = cls(agent, process, cgroup, inbox=inbox, uid=uid, log=sandbox.log)
        extension._unlimited_until = time.monotonic() + _UNLIMITED_S
        return extension

    @classmethod
    def adopt(cls, agent: OwnedAgent, state: ProcessState, inbox: Inbox) -> ExtensionHandle:
        """Take over one that another process started. Raises KmindError if it has ended."""
        process = ExtensionProcess.adopt(state.pid, state.start, state.log)
        cgroup = None
        if state.cgroup:
            with suppress(KmindError):
                cgroup = ExtensionCgroup.adopt(state.cgroup)
        return cls(agent, process, cgroup, inbox=inbox, uid=state.uid, log=state.log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def pid_fd(self) -> int:
        """Readable when it has ended; -1 once it is closed."""
        return self._process.pid_fd

    @property
    def log_fd(self) -> int:
        """Readable when it has printed something; -1 once it is closed."""
        return self._process.log_fd

    def beats(self) -> bool:
        """True if its heart has beaten since it was started.

        Call it now and then until it does: its CPU time is limited from then on, or after 10 s,
        whichever is first. Raises KmindError if the kernel refuses that.
        """
        beats = int(self._heartbeat[0]) != self._first_beat
        until = self._unlimited_until
        if self._cgroup and until is not None and (beats or time.monotonic() > until):
            self._cgroup.limit_cpu()
            self._unlimited_until = None
        return beats

    def ended(self) -> str:
        """Return how it ended, as a sentence's end, or "" while it runs."""
        status = self._process.ended()
        if status is None:
            return ""
        if status == EXIT_MODULE:
            return "ended: its code raised an exception"
        if status == EXIT_SETUP:
            return "could not be set up"
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if status == ENDED_UNSEEN:
            how = "ended"
        over = self.exceeded()
        return f"{how}: {over}" if over else how

    def exceeded(self) -> str:
        """Return the limit that it exceeded, in words, or ""."""
        over = self._cgroup.exceeded() if self._cgroup else None
        return f"exceeded a limit: {over}" if over else ""

    @property
    def heard(self) -> int:
        """Bytes that it printed and that were read."""
        return self._process.heard

    def read_log(self) -> list[str]:
        """Lines that it printed since the last call; parts of notes wait."""
        return self._process.read_log()

    def handle_notes(self) -> int:
        """Check and keep what it handed over, among what was read; how many were whole."""
        return self._inbox.handle(self._process.receive_parts())

    def close(self) -> list[str]:
        """Kill it and all that it started; its last lines. Safe to repeat."""
        lines = self._process.close()
        self._inbox.handle(self._process.receive_parts())
        if self._cgroup:
            self._cgroup.close()
        return lines

    def release(self) -> list[str]:
        """Let go of it, and let it run on; its last lines."""
        lines = self._process.release()
        self._inbox.handle(self._process.receive_parts())
        return lines

    def state(self) -> ProcessState:
        """State of the process, for ``adopt``."""
        return ProcessState(
            pid=self.pid,
            start=self._process.start_time,
            uid=self.uid,
            log=self._log,
            cgroup=self._cgroup.name if self._cgroup else "",
        )

    def effort(self) -> Effort | None:
        """Return its use of resources so far, by the kernel's accounts; None if it has ended."""
        return read_effort(self.pid) if self._process.ended() is None else None

    def describe(self) -> dict[str, Any]:
        """Process, user and what its cgroup counts; JSON can hold it."""
        usage = dict(self._cgroup.usage()) if self._cgroup else None
        missing = dict(self._cgroup.missing) if self._cgroup else {}
        return {"pid": self.pid, "uid": self.uid, "usage": usage, "unlimited": missing}


def _cgroup(
    sandbox: Sandbox, module: Module, tell: Callable[[str], None]
) -> ExtensionCgroup | None:
    if not sandbox.cgroup:
        return None
    cgroup = ExtensionCgroup(sandbox.cgroup, module.manifest.limits)
    for controller, why in cgroup.missing.items():
        tell(f"no cgroup limits {controller} of the extension: {why}")
    return cgroup
