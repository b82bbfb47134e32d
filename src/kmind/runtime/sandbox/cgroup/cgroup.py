# SPDX-License-Identifier: Apache-2.0
"""A cgroup for each extension: limits of CPU time, memory and processes, and what it used.

Version 2 (cgroup-v2.rst of the kernel's admin guide) and version 1 (cgroup-v1/) are
served alike, controller by controller, for many machines have some of both.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

from kmind.errors import KmindError
from kmind.runtime.sandbox.cgroup.folders import FOLDER, Folders, read_words, write_file
from kmind.runtime.sandbox.cgroup.mounts import Hierarchy, find_hierarchies
from kmind.runtime.sandbox.config import CgroupEntry

__all__ = ["CPU_WINDOW_S", "ExtensionCgroup", "Limits", "Usage", "list_cgroups"]

CPU_WINDOW_S = 5.0
"""CPU time is judged over at least so long: a burst of work, as a model that is trained
once, passes, and a loop without end is seen within seconds."""

_CONTROLLERS = ("cpu", "memory", "pids")
# The kernel's default (Documentation/scheduler/sched-bwc.rst): a shorter period costs
# more, a longer one stops an extension for longer than its heartbeat may be late.
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1000  # that the kernel takes
# Of all periods: one that keeps up with its work, if late, idles in more than half.
_THROTTLED_SHARE = 0.5

# A figure, by the version of its hierarchy: controller, file, and key in it.
_Places = dict[int, tuple[str, str, str]]
_THROTTLED: _Places = {
    1: ("cpu", "cpu.stat", "nr_throttled"),
    2: ("cpu", "cpu.stat", "nr_throttled"),
}
_MEMORY: _Places = {
    1: ("memory", "memory.usage_in_bytes", ""),
    2: ("memory", "memory.current", ""),
}
_MEMORY_PEAK: _Places = {
    1: ("memory", "memory.max_usage_in_bytes", ""),
    2: ("memory", "memory.peak", ""),
}
_OOM_KILLS: _Places = {
    1: ("memory", "memory.oom_control", "oom_kill"),
    2: ("memory", "memory.events", "oom_kill"),
}
_PIDS: _Places = {1: ("pids", "pids.current", ""), 2: ("pids", "pids.current", "")}
_PIDS_REFUSED: _Places = {1: ("pids", "pids.events", "max"), 2: ("pids", "pids.events", "max")}
_CPU_US: _Places = {2: ("", "cpu.stat", "usage_usec")}  # there without the controller too
_CPU_NS: _Places = {1: ("cpuacct", "cpuacct.usage", "")}


class Limits(Protocol):
    """Limits of an extension, from ``[limits]`` of its manifest; 0: no limit."""

    @property
    def cpu_percent(self) -> float:
        """Of one CPU."""

    @property
    def memory_mib(self) -> int:
        """Memory in MiB, swap included."""

    @property
    def pids(self) -> int:
        """Processes and threads together."""


@dataclass(frozen=True)
class _Found:
    # Limits as they stand in the kernel.
    cpu_percent: float
    memory_mib: int
    pids: int


class Usage(TypedDict):
    """Use of resources by a cgroup since it was made; 0 where nobody counts it.

    ``throttled`` counts the periods of 0.1 s in which its CPU time ran out, ``pids_refused`` the
    processes and threads that could not be started.
    """

    cpu_s: float
    memory_bytes: int
    memory_peak: int
    throttled: int
    oom_kills: int
    pids: int
    pids_refused: int


class ExtensionCgroup:
    """The cgroup of one extension, made anew: what runs under its ``name`` is killed.

    ``missing`` says for each controller that cannot be had ("cpu", "memory", "pids")
    why; the others limit all the same. ``hierarchies`` are those that are mounted,
    unless they are given. One thread may use it.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        hierarchies: Sequence[Hierarchy] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        folders = Folders(name, _mounted() if hierarchies is None else hierarchies)
        folders.remove()
        folders.make(_CONTROLLERS)
        self._hold(name, limits, folders, now)
        for controller in _CONTROLLERS:
            if controller not in self.missing:
                self._limit(controller)

    @classmethod
    def adopt(
        cls,
        name: str,
        *,
        hierarchies: Sequence[Hierarchy] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> ExtensionCgroup:
        """Take over the cgroup of that name, with the limits that stand in it.

        Raises KmindError if there is none.
        """
        folders = Folders(name, _mounted() if hierarchies is None else hierarchies)
        folders.find(_CONTROLLERS)
        cgroup = cls.__new__(cls)
        cgroup._hold(name, _limits_of(folders), folders, now)
        return cgroup

    def _hold(self, name: str, limits: Limits, folders: Folders, now: Callable[[], float]) -> None:
        self.name = name
        self.limits = limits
        self.missing = folders.missing
        self._folders = folders
        self._now = now
        self._last = Usage(
            cpu_s=0,
            memory_bytes=0,
            memory_peak=0,
            throttled=0,
            oom_kills=0,
            pids=0,
            pids_refused=0,
        )
        self._closed = False
        self._seen: deque[tuple[float, float]] = deque()

    def entry(self) -> CgroupEntry:
        """Instructions for the extension's process to enter the cgroup."""
        return CgroupEntry(
            join=tuple(str(folder / "cgroup.procs") for folder in self._folders.all),
            data_bytes=self.limits.memory_mib << 20 if "memory" in self.missing else 0,
        )

    def add(self, pid: int) -> None:
        """Move a process into it, and limit its CPU time from now on.

        Raises KmindError if it has ended, or the kernel refuses.
        """
        try:
            for path in self.entry().join:
                write_file(Path(path), str(pid))
        except OSError as error:
            raise KmindError(
                f"process {pid} cannot enter the cgroup {self.name}: {error.strerror}"
            ) from None
        self.limit_cpu()

    def limit_cpu(self) -> None:
        """Limit CPU time from now on: not before, so that a start is not held back.

        Raises KmindError if the kernel refuses.
        """
        try:
            for path, text in self._quota():
                write_file(path, text)
        except OSError as error:
            raise KmindError(
                f"CPU time of the cgroup {self.name} cannot be limited: {error.strerror}"
            ) from None

    def usage(self) -> Usage:
        """Return the use of resources so far; once it is closed, the last figures."""
        if not self._closed:
            self._last = Usage(
                cpu_s=self._cpu_s(),
                memory_bytes=self._figure(_MEMORY),
                memory_peak=self._figure(_MEMORY_PEAK),
                throttled=self._figure(_THROTTLED),
                oom_kills=self._figure(_OOM_KILLS),
                pids=self._figure(_PIDS),
                pids_refused=self._figure(_PIDS_REFUSED),
            )
        return self._last

    def exceeded(self) -> str | None:
        """Return the exceeded limit, in words that begin with its name, or None.

        "memory: ...": the kernel killed a process for it. "pids: ...": one could not be started.
        "cpu: ...": no time was left in more than half of the last 5 s. Call it about once a second:
        CPU time is judged from call to call.
        """
        # Only what is judged is read: it is done for each instance, all day long.
        if self._figure(_OOM_KILLS):
            return f"memory: it took more than {self.limits.memory_mib} MiB and was killed for it"
        if refused := self._figure(_PIDS_REFUSED):
            return (
                f"pids: {refused} times it tried to have more than {self.limits.pids} "
                "processes and threads"
            )
        return self._cpu_exceeded()

    def kill(self) -> None:
        """Kill every process in it, and wait until none is left, 5 s at most."""
        self._folders.kill()

    def close(self) -> None:
        """Kill what is in it, and remove it. Safe to repeat.

        Raises KmindError if something in it does not end within 5 s.
        """
        if not self._closed:
            self.kill()
            self.usage()
            self._closed = True
        self._folders.remove()

    def _limit(self, controller: str) -> None:
        version, folder = self._folders.at[controller]
        for file, text, needed in _settings(controller, version, self.limits):
            try:
                write_file(folder / file, text)
            except OSError as error:
                if needed or _swaps():
                    self.missing[controller] = f"{folder / file}: {error.strerror}"
                    return
        if controller == "memory" and (why := _ineffective(version, folder, self.limits)):
            self.missing[controller] = why

    def _quota(self) -> tuple[tuple[Path, str], ...]:
        if "cpu" in self.missing or not self.limits.cpu_percent:
            return ()
        version, folder = self._folders.at["cpu"]
        quota = max(_LEAST_QUOTA_US, round(self.limits.cpu_percent / 100 * _PERIOD_US))
        if version == 2:
            return ((folder / "cpu.max", f"{quota} {_PERIOD_US}"),)
        return ((folder / "cpu.cfs_quota_us", str(quota)),)

    def _cpu_exceeded(self) -> str | None:
        now = self._now()
        used = self._figure(_THROTTLED) if "cpu" not in self.missing else self._cpu_s()
        self._seen.append((now, used))
        while len(self._seen) > 1 and self._seen[1][0] <= now - CPU_WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        seconds = now - then
        may = self.limits.cpu_percent
        if seconds < CPU_WINDOW_S or not may:
            return None
        if "cpu" not in self.missing:
            share = (used - before) * _PERIOD_US / 1e6 / seconds
            if share > _THROTTLED_SHARE:
                return (
                    f"cpu: for {share:.0%} of the last {seconds:.0f} s it wanted more than "
                    f"{may:g}% of a CPU"
                )
        elif (percent := (used - before) / seconds * 100) > may:
            return (
                f"cpu: it took {percent:.0f}% of a CPU for {seconds:.0f} s, and may take {may:g}%"
            )
        return None

    def _cpu_s(self) -> float:
        return self._figure(_CPU_US) / 1e6 or self._figure(_CPU_NS) / 1e9

    def _figure(self, places: _Places) -> int:
        for version, (controller, file, key) in places.items():
            at = self._folders.at.get(controller)
            if at is None or at[0] != version:
                continue
            words = read_words(at[1] / file)
            if key:
                words = words[words.index(key) + 1 :] if key in words else []
            if words:
                return int(words[0])
        return 0


def list_cgroups(hierarchies: Sequence[Hierarchy] | None = None) -> list[str]:
    """Names of the extensions' cgroups that there are, whoever made them."""
    candidates = _mounted() if hierarchies is None else hierarchies
    return sorted(
        {
            folder.name
            for hierarchy in candidates
            if (hierarchy.base / FOLDER).is_dir()
            for folder in (hierarchy.base / FOLDER).iterdir()
            if folder.is_dir()
        }
    )


def _mounted() -> list[Hierarchy]:
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
        mounted = find_hierarchies(mounts, Path("/proc/self/cgroup").read_text())
    except OSError:
        return []
    wanted = {*_CONTROLLERS}
    if all(hierarchy.version == 1 for hierarchy in mounted):
        wanted.add("cpuacct")  # else version 2 counts: to enter each takes some 10 ms
    return [h for h in mounted if h.version == 2 or h.controllers & wanted]


def _settings(controller: str, version: int, limits: Limits) -> list[tuple[str, str, bool]]:
    # File, text, and whether it has to be there: limits of swap are a kernel's choice.
    if controller == "cpu":
        return [] if version == 2 else [("cpu.cfs_period_us", str(_PERIOD_US), True)]
    if controller == "pids":
        return [("pids.max", str(limits.pids or "max"), True)]
    memory = str(limits.memory_mib << 20)
    if not limits.memory_mib:
        return []
    if version == 2:
        return [("memory.max", memory, True), ("memory.swap.max", "0", False)]
    return [
        ("memory.limit_in_bytes", memory, True),
        ("memory.memsw.limit_in_bytes", memory, False),
    ]


def _swaps() -> bool:
    # Of proc(5), after a heading: a line for each place that memory is swapped to.
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return False  # a kernel without


def _ineffective(version: int, folder: Path, limits: Limits) -> str:
    # Read back: a limit that stands in no file is none.
    file = folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")
    words = read_words(file)
    stands = int(words[0]) if words and words[0].isdigit() else None
    if stands is not None and stands <= limits.memory_mib << 20:
        return ""
    return f"{file} says {' '.join(words)[:40] or 'nothing'} after {limits.memory_mib} MiB"


def _limits_of(folders: Folders) -> Limits:
    files = {
        "cpu": {1: "cpu.cfs_quota_us", 2: "cpu.max"},
        "memory": {1: "memory.limit_in_bytes", 2: "memory.max"},
        "pids": {1: "pids.max", 2: "pids.max"},
    }
    counts = dict.fromkeys(files, 0)
    for controller, names in files.items():
        if controller in folders.at:
            version, folder = folders.at[controller]
            words = read_words(folder / names[version])
            counts[controller] = int(words[0]) if words and words[0].isdigit() else 0
    return _Found(counts["cpu"] / _PERIOD_US * 100, counts["memory"] >> 20, counts["pids"])
