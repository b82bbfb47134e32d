# SPDX-License-Identifier: Apache-2.0
"""``kmind run`` beside a load: started, stopped, and what it costs in CPU time.

The instance is the real one, in a process of its own, as an admin starts it.
"""

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmind.errors import BpfError, KmindError
from kmind.workloads.host import stop_process

__all__ = ["CpuSample", "agent_statistics", "cpu_shares", "kmind_beside", "sampled", "tree"]

_HEAD_START_S = 1.0
_START_LIMIT_S = 60.0


@contextlib.contextmanager
def kmind_beside(
    device: str,
    mode: str,
    module: str = "readahead",
    words: Sequence[str] = (),
    state: Path | None = None,
) -> Iterator[int]:
    """Run ``kmind run MODULE DEVICE WORDS --mode MODE`` inside the block; yields its pid.

    ``state`` is where it keeps its journal and what it learns, in place of the machine's
    own folder. The block starts a second after the instance's first line of JSON. At the end
    the instance is interrupted, and has to end with status 0, or KmindError
    repeats its last message.
    """
    argv = [sys.executable, "-m", "kmind", "run", module, device, *words, "--mode", mode, "--json"]
    environment = {**os.environ, **({"KMIND_STATE_DIR": str(state)} if state else {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            argv, stdout=out, stderr=messages, text=True, env=environment, start_new_session=True
        )
        try:
            limit = time.monotonic() + _START_LIMIT_S
            while process.poll() is None and os.fstat(out.fileno()).st_size == 0:
                if time.monotonic() > limit:
                    raise KmindError(f"kmind run printed nothing for {_START_LIMIT_S:.0f} s")
                time.sleep(0.05)
            time.sleep(_HEAD_START_S)
            if process.poll() is None:
                yield process.pid
            early = process.poll() is not None
        finally:
            status = stop_process(process)
        if status or early:
            messages.seek(0)
            last = (messages.read().strip().splitlines() or ["no message"])[-1]
            when = "before the load ended" if early else "when it was stopped"
            raise KmindError(f"kmind run ended with status {status} {when}: {last}")


@dataclass(frozen=True)
class CpuSample:
    """CPU time so far, in seconds: of the processes, and of the eBPF programs they hold."""

    at: float
    processes: float
    programs: float


def cpu_shares(samples: list[CpuSample], seconds: float) -> list[tuple[float, float]]:
    """Percent of one core between neighbouring samples of the last ``seconds``.

    The share of the processes, and that of the programs.
    """
    last = [s for s in samples if s.at >= samples[-1].at - seconds]
    return [
        (
            100 * (b.processes - a.processes) / (b.at - a.at),
            100 * (b.programs - a.programs) / (b.at - a.at),
        )
        for a, b in itertools.pairwise(last)
    ]


@contextlib.contextmanager
def sampled(pids: Iterable[int], period: float = 1.0) -> Iterator[list[CpuSample]]:
    """Sample the CPU time of processes and all that descend from them while the block runs.

    Yields the growing list.
    """
    roots = list(pids)
    samples: list[CpuSample] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                samples.append(_sample(roots))
            done.wait(period)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def agent_statistics() -> Iterator[None]:
    """Let the kernel add up the run time of eBPF programs while the block runs (BPF_ENABLE_STATS).

    This itself costs two clock reads for each run of a program. The run time does
    not hold that of timer callbacks, which the kernel does not count.
    """
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    fd = libbpf.bpf_enable_stats(0)
    if fd < 0:
        raise BpfError(
            f"the kernel keeps no statistics of eBPF programs: {os.strerror(-fd)}",
            hint="run as root",
        )
    try:
        yield
    finally:
        os.close(fd)


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path("/proc", str(parent), "task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def _sample(roots: list[int]) -> CpuSample:
    at = time.monotonic()
    pids = {pid for root in roots for pid in tree(root)}
    programs: dict[int, int] = {}
    for each in pids:
        programs |= _programs(each)
    return CpuSample(at, sum(map(_cpu_seconds, pids)), sum(programs.values()) / 1e9)


def _cpu_seconds(pid: int) -> float:
    # The process's CPU clock has nanoseconds, where /proc/PID/stat has ticks of 10 ms.
    clock = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        return 0.0  # it has ended
    try:
        return time.clock_gettime(clock.value)
    except OSError:
        return 0.0


def _programs(pid: int) -> dict[int, int]:
    # Run time in ns of the eBPF programs that a process holds open, by program id.
    found: dict[int, int] = {}
    for entry in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with contextlib.suppress(OSError):
            fields = dict(re.findall(r"^(\w+):\s*(\S+)$", entry.read_text(), re.MULTILINE))
            if "run_time_ns" in fields and "prog_id" in fields:
                found[int(fields["prog_id"])] = int(fields["run_time_ns"])
    return found
