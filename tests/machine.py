# SPDX-License-Identifier: Apache-2.0
"""Detect traces that tests leave behind on the machine, and put knobs back.

A snapshot is a set of facts, each a name and a value. A setting has a value; what is only
there or not (a mount, a pin, a process) has "".
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

__all__ = ["Facts", "children", "differences", "full", "processes", "put_back", "quick", "settled"]

Facts = dict[str, str]

# Every process that a test starts inherits it, so that one is known even when its parent died.
_MARK = uuid.uuid4().hex
os.environ["KMIND_TEST_RUN"] = _MARK

_BLOCK = Path("/sys/block")
_VM = Path("/proc/sys/vm")
_MM = Path("/sys/kernel/mm")
_MORE = (
    _MM / "ksm",
    _MM / "transparent_hugepage",
    _MM / "transparent_hugepage/khugepaged",
    Path("/sys/module/zswap/parameters"),
)
_NOT_SETTINGS = {"compact_memory", "drop_caches", "stat_refresh"}
_LEFT_BY_KMIND = ("/var/lib/kmind", "/run/kmind", "/etc/kmind", "/dev/shm/kmind*")
# Others mount and load things too while the tests run.
_FOREIGN_MOUNTS = ("/run/user/", "/run/credentials/", "/proc/sys/fs/binfmt_misc")
_FOREIGN_PROGRAMS = ("sd_",)
_FOREIGN_PINS = "/sys/fs/bpf/systemd"
_EXTENSION = "kmind.runtime.sandbox.child"
# Python keeps this one until it exits.
_PYTHONS_OWN = "multiprocessing.resource_tracker"


def quick() -> Facts:
    """Settings, mounts and processes: some milliseconds."""
    return {**_settings(), **_mounts(), **_named({*children(), *_orphans()})}


def full() -> Facts:
    """All that a test could leave behind."""
    return {**quick(), **_cgroups(), **_pins(), **_programs(), **_files()}


def differences(before: Facts, after: Facts) -> list[str]:
    """Say, one line each, what of ``before`` does not stand in ``after``."""
    changed = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in after.items()
        if before.get(name, value) != value
    ]
    appeared = [f"left behind: {name}" for name in _things(after) - _things(before)]
    # A program or process that went away was another's, or was never meant to stay.
    vanished = [
        f"gone: {name}"
        for name in _things(before) - _things(after)
        if not name.startswith(("process ", "BPF program "))
    ]
    return sorted(changed) + sorted(appeared) + sorted(vanished)


def settled(before: Facts, snapshot: Callable[[], Facts], seconds: float = 3) -> list[str]:
    """As ``differences``, once what is still going away had time to go."""
    deadline = time.monotonic() + seconds
    while (lines := differences(before, snapshot())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return lines


def put_back(before: Facts) -> None:
    """Write the settings that have another value now, so that the next test starts clean."""
    now = _settings()
    for name, value in before.items():
        if value and now.get(name, value) != value:
            # Of dirty_bytes and dirty_ratio only the one in force can be written.
            with contextlib.suppress(OSError):
                Path(name).write_text(value)


def children() -> list[int]:
    """Return the ids of the living processes that this test run started."""
    parents = _parents()
    return [pid for pid in parents if pid != os.getpid() and _is_ours(pid, parents)]


def _parents() -> dict[int, int]:
    """Return the parent of each living process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (entry / "stat").read_text(errors="replace")  # a name may be any bytes
            state, parent = text.rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(entry.name)] = int(parent)
    return parents


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    ancestor = pid
    while ancestor := parents.get(ancestor, 0):
        if ancestor == os.getpid():
            return True
    with contextlib.suppress(OSError):
        return _MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def _things(facts: Facts) -> set[str]:
    return {name for name, value in facts.items() if not value}


def _settings() -> Facts:
    facts = {}
    for device in _BLOCK.iterdir():
        # An unbound loop or zram device has no size, and its settings mean nothing.
        if (device / "size").read_text().strip() == "0":
            continue
        facts[f"block device {device.name}"] = ""
        facts.update(_read_writable(device / "queue"))
    for folder in (_VM, *_MORE):
        if folder.is_dir():
            facts.update(_read_writable(folder))
    return facts


def _read_writable(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mode & 0o600 == 0o600:
            if path.name in _NOT_SETTINGS:
                continue
            with contextlib.suppress(OSError):  # not every device implements every attribute
                if text := path.read_text().strip():
                    yield str(path), _chosen(text)


def _chosen(text: str) -> str:
    """Of ``none [mq-deadline] bfq`` take the marked word: a module may add others."""
    if "[" in text:
        return text.partition("[")[2].partition("]")[0]
    return text


def _mounts() -> Facts:
    facts: Facts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if not where.startswith(_FOREIGN_MOUNTS):
            name = f"mount of {kind} at {where}"
            while name in facts:  # mounts may lie on top of each other
                name += " again"
            facts[name] = ""
    return facts


def processes() -> Facts:
    """Processes that live and are known to be of this run."""
    return _named(children())


def _orphans() -> list[int]:
    """Extensions without a parent: their environment is empty, so only the name tells.

    They may be of a run beside this one, so only one that has the machine to itself asks.
    """
    return [
        pid for pid, parent in _parents().items() if parent == 1 and _EXTENSION in _command(pid)
    ]


def _named(pids: Iterable[int]) -> Facts:
    commands = {pid: _command(pid) for pid in pids}
    return {
        f"process {pid} ({command})": ""
        for pid, command in commands.items()
        if _PYTHONS_OWN not in command
    }


def _cgroups() -> Facts:
    return {
        f"cgroup {folder}": ""
        for folder, _, _ in os.walk("/sys/fs/cgroup")
        if "kmind" in folder.removeprefix("/sys/fs/cgroup")
    }


def _pins() -> Facts:
    return {
        f"pin {Path(folder) / name}": ""
        for folder, folders, files in os.walk("/sys/fs/bpf")
        for name in folders + files
        if not (Path(folder) / name).is_relative_to(_FOREIGN_PINS)
    }


def _programs() -> Facts:
    bpftool = shutil.which("bpftool", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if os.geteuid() != 0 or not bpftool:
        return {}
    shown = subprocess.run([bpftool, "-j", "prog", "show"], capture_output=True, check=False)
    if shown.returncode:
        return {}
    names = {program["id"]: program.get("name", "") for program in json.loads(shown.stdout)}
    ours = {key: name for key, name in names.items() if not name.startswith(_FOREIGN_PROGRAMS)}
    for program in _held_by_others() if ours else ():
        ours.pop(program, None)
    return {f"BPF program {key} ({name})": "" for key, name in ours.items()}


def _held_by_others() -> set[int]:
    """Ids of the programs that a process which is not of this test run holds open."""
    mine = {os.getpid(), *children()}
    held = set()
    for entry in Path("/proc").glob("[0-9]*/fdinfo/*"):
        if int(entry.parts[2]) in mine:
            continue
        with contextlib.suppress(OSError):
            for line in entry.read_text().splitlines():
                if line.startswith("prog_id:"):
                    held.add(int(line.split()[1]))
    return held


def _files() -> Facts:
    facts = {}
    for pattern in _LEFT_BY_KMIND:
        for path in Path("/").glob(pattern.lstrip("/")):
            facts[f"file {path}"] = ""
            facts.update({f"file {below}": "" for below in path.rglob("*")})
    return facts
