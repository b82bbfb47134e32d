# SPDX-License-Identifier: Apache-2.0
"""A block device that a Python process serves from memory, beside the kernel's own loop on tmpfs.

fio runs for short pieces of time on each, in an order that is drawn anew each round: 4 KiB at
random at depth 32 and 1 on the device, the same on its bare FUSE file, and 128 KiB in order. Then
the server is killed again and again under such a load: of each kill, the time until its successor
has answered a request.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kmind.bench._driver_server import RamProcess
from kmind.bench._results import Metric, interleaved
from kmind.driver.disk import LoopDisk
from kmind.workloads.fio import parse_report
from kmind.workloads.host import find_tool, run_process

__all__ = ["answered", "fio_command", "fio_job", "measure_block"]

_SIZE, _QUICK_SIZE = 256 << 20, 32 << 20
_ROUNDS, _QUICK_ROUNDS = 10, 2
_PIECE_S, _QUICK_PIECE_S = 2.0, 0.5
_KILLS, _QUICK_KILLS = 100, 4
_KILL_EVERY_S = 0.5  # about; a process starts meanwhile
_RANDOM = ("--rw=randread", "--bs=4k", "--iodepth=32")
_JOBS = {
    "loop": _RANDOM,
    "loop_again": _RANDOM,
    "loop_write": ("--rw=randwrite", "--bs=4k", "--iodepth=32"),
    "loop_depth_1": ("--rw=randread", "--bs=4k", "--iodepth=1"),
    "kernel_loop": _RANDOM,
    "file": _RANDOM,
    "file_128k": ("--rw=read", "--bs=128k", "--iodepth=32"),
}


def measure_block(*, quick: bool = False) -> list[Metric]:
    """The bench's numbers: I/O operations a second, ratios of a round, milliseconds of a stall.

    Raises NotSupportedError without FUSE or loop devices, PrivilegeError without root.
    """
    size = _QUICK_SIZE if quick else _SIZE
    memory = os.memfd_create("kmind-bench")
    try:
        disk = LoopDisk("bench", lambda connection: RamProcess(connection, size, memory).go())
        with disk, _kernels_loop(size) as kernels:
            for start in range(0, size, 1 << 20):
                os.pwrite(memory, os.urandom(1 << 20), start)
            paths = {"kernel_loop": kernels, "file": disk.file, "file_128k": disk.file}
            rates: dict[str, list[float]] = {name: [] for name in _JOBS}
            for order in interleaved(list(_JOBS), _QUICK_ROUNDS if quick else _ROUNDS):
                for name in order:
                    path = paths.get(name, disk.path)
                    piece = _QUICK_PIECE_S if quick else _PIECE_S
                    rates[name].append(_iops(_JOBS[name], path, size, piece))
            stalls, longest = _kill(disk, size, memory, _QUICK_KILLS if quick else _KILLS)
    finally:
        os.close(memory)
    loop = np.array(rates["loop"])
    return [
        *(Metric(f"block_{name}_iops", rates[name]) for name in _JOBS if name != "loop_again"),
        Metric("block_loop_aa", np.array(rates["loop_again"]) / loop),
        Metric("block_loop_of_kernel_loop", loop / np.array(rates["kernel_loop"])),
        Metric("block_kill_stall_ms", stalls),
        Metric("block_kill_stall_ms_p99", [float(np.percentile(stalls, 99))]),
        Metric("block_kill_longest_request_ms", [longest]),
    ]


@contextmanager
def _kernels_loop(size: int) -> Iterator[Path]:
    # The same in the kernel: a loop device with direct I/O on a file in memory.
    losetup = find_tool("losetup")
    with os.fdopen(os.memfd_create("kmind-bench"), "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        backing = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        shown = run_process([losetup, "--find", "--show", "--direct-io=on", backing])
        device = shown.strip()
        try:
            yield Path(device)
        finally:
            run_process([losetup, "--detach", device])


def fio_command(path: Path, size: int, seconds: float, *words: str) -> list[str]:
    """A run of fio on a path for so many seconds, past the page cache, with a report in JSON."""
    common = ["--ioengine=libaio", "--direct=1", "--time_based", "--norandommap"]
    sizes = [f"--filename={path}", f"--size={size}", f"--runtime={seconds:g}"]
    return [find_tool("fio"), "--name=load", *sizes, *common, *words, "--output-format=json"]


def fio_job(output: str) -> dict[str, Any]:
    """The only job of a report of fio's."""
    job: dict[str, Any] = parse_report(output, ("read", "write"))["jobs"][0]
    return job


def _iops(words: Sequence[str], path: Path, size: int, seconds: float) -> float:
    job = fio_job(run_process(fio_command(path, size, seconds, *words)))
    return float(job["read"]["iops"] + job["write"]["iops"])


def _kill(disk: LoopDisk, size: int, memory: int, kills: int) -> tuple[list[float], float]:
    # Milliseconds from each kill to the first answer of a process that stood by, and the longest
    # that any request took.
    words = ("--rw=randrw", "--bs=4k", "--iodepth=32")
    fio = fio_command(disk.path, size, kills * _KILL_EVERY_S, *words)
    stalls = []
    serving = RamProcess(disk.connection, size, memory)
    load = subprocess.Popen(fio, stdout=subprocess.PIPE, text=True)
    try:
        serving.wait_until_ready()
        disk.replace(lambda _: serving.go())
        while load.poll() is None:
            spare = RamProcess(disk.connection, size, memory)
            spare.wait_until_ready()
            before = answered(disk)
            _wait_for_answers(disk, before, load)
            began = time.perf_counter()
            serving.stop()
            before = answered(disk)
            serving = spare
            disk.replace(lambda _: spare.go())  # noqa: B023 - called at once
            if _wait_for_answers(disk, before, load):
                stalls.append((time.perf_counter() - began) * 1e3)
        assert load.stdout
        job = fio_job(load.stdout.read())
    finally:
        load.kill()
        load.wait()
        if load.stdout:
            load.stdout.close()
    longest = max(job[side]["clat_ns"]["max"] for side in ("read", "write"))
    return stalls, longest / 1e6


def answered(disk: LoopDisk) -> int:
    """Reads and writes that the device has completed."""
    fields = Path(f"/sys/block/{disk.path.name}/stat").read_text().split()
    return int(fields[0]) + int(fields[4])


def _wait_for_answers(disk: LoopDisk, before: int, load: subprocess.Popen[str]) -> bool:
    while answered(disk) == before:
        if load.poll() is not None:
            return False
        time.sleep(0.0002)
    return True
