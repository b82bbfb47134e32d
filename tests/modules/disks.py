# SPDX-License-Identifier: Apache-2.0
"""Disks for tests: one of their own, slowed down or not, and direct requests to it."""

import contextlib
import mmap
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from programs import machine_lacks

from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Mode
from kmind.extension import find_module, parse_parameters
from kmind.knobs import parse_target
from kmind.runtime.instance.agent_factory import make_bpf_agent

__all__ = [
    "UNSEEN",
    "agent_of",
    "brake",
    "direct",
    "direct_until",
    "disk_of",
    "loop",
    "memory_disk",
]

UNSEEN = 0.2
"""Share of completions that hooks may miss, at most.

A completion comes in an interrupt, on behalf of whichever task is interrupted. Some virtual
machines have a kernel that runs no BPF program in the tasks of their first process, which serves
the machine's owner; completions that interrupt it are in no count. Blocks of up to 74 in 1,000
requests were seen, all of them while a thread of process 1 was the current task.
"""


def disk_of(path: Path) -> str:
    """The whole disk below a file, or a skip."""
    device = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not entry.exists():
        machine_lacks(f"{path} is on no block device")
    entry = entry.resolve()
    return (entry.parent if (entry / "partition").exists() else entry).name


def direct(path: str | Path, *, reads: int, writes: int = 0, size: int = 16384) -> None:
    """Requests one after the other, past the page cache, at random places."""
    choose = random.Random(1)
    flags = os.O_DIRECT | (os.O_RDWR if writes else os.O_RDONLY)
    fd = os.open(path, flags)
    try:
        places = os.lseek(fd, 0, os.SEEK_END) // size
        with mmap.mmap(-1, size) as buffer:
            for number in range(reads + writes):
                place = choose.randrange(places) * size
                if number < reads:
                    assert os.preadv(fd, [buffer], place) == size
                else:
                    assert os.pwritev(fd, [buffer], place) == size
    finally:
        os.close(fd)


def direct_until(done: Callable[[], bool], path: str | Path, *, at_most: int, **load: int) -> int:
    """Repeat `direct` until enough was seen of it (see `UNSEEN`); how many requests it took."""
    asked = 0
    while not done():
        assert asked < at_most, f"{asked} requests were not enough"
        direct(path, **{"reads": 0, **load})
        asked += sum(load.get(name, 0) for name in ("reads", "writes"))
    return asked


@contextlib.contextmanager
def loop(folder: Path) -> Iterator[str]:
    """A disk of the test's own whose requests go straight to the disk below."""
    backing = folder / "disk"
    backing.write_bytes(os.urandom(16 << 20))
    with _losetup("--direct-io=on", str(backing)) as node:
        if Path(f"/sys/block/{Path(node).name}/loop/dio").read_text().strip() != "1":
            machine_lacks("the file system takes no direct I/O from a loop device")
        yield node


@contextlib.contextmanager
def memory_disk() -> Iterator[tuple[str, str]]:
    """A disk in memory, and the one below it, which can be slowed down: their names.

    Whatever else this machine's disk has to do, their requests take as long as before.
    """
    backing = os.memfd_create("kmind-test")
    try:
        os.ftruncate(backing, 16 << 20)
        node = f"/proc/{os.getpid()}/fd/{backing}"
        with _losetup(node) as below, _losetup("--direct-io=on", below) as disk:
            yield Path(disk).name, Path(below).name
    finally:
        os.close(backing)


@contextlib.contextmanager
def _losetup(*words: str) -> Iterator[str]:
    command = ["losetup", "--find", "--show", *words]
    node = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield node
    finally:
        subprocess.run(["losetup", "--detach", node], check=True)


@contextlib.contextmanager
def brake(disk: str) -> Iterator[Any]:
    """This process in a cgroup of its own; calling what is yielded slows the disk for it.

    A loop device asks on behalf of who asked it, so its requests take longer then.
    """
    root = Path("/sys/fs/cgroup/blkio")
    if not (root / "blkio.throttle.read_iops_device").exists():
        machine_lacks("no blkio controller with throttling in cgroup v1 here")
    device = (Path("/sys/block") / disk / "dev").read_text().strip()
    line = next(
        text for text in Path("/proc/self/cgroup").read_text().splitlines() if "blkio" in text
    )
    before = root / line.rpartition(":")[2].lstrip("/")
    own = root / f"kmind-test-{os.getpid()}"
    own.mkdir()
    rule = own / "blkio.throttle.read_iops_device"
    try:
        (own / "cgroup.procs").write_text(str(os.getpid()))
        yield lambda iops: rule.write_text(f"{device} {iops}\n")
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        own.rmdir()


@contextlib.contextmanager
def agent_of(name: str, node: str, *words: str) -> Iterator[BpfAgent]:
    """The agent of a module on a disk or "system", in mode observe, without an extension."""
    module = find_module(name)
    params = parse_parameters(module.manifest, words)
    agent = make_bpf_agent(module, parse_target(Path(node).name), params, deadline_s=600)
    try:
        agent.set_mode(Mode.OBSERVE)
        agent.start()
        yield agent
    finally:
        agent.close()
