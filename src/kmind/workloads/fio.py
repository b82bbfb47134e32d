# SPDX-License-Identifier: Apache-2.0
"""Fio: laying out files, the command line of a job, and reading its reports."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmind.errors import KmindError
from kmind.util.scratch import create_scratch, finished_scratch, scratch_folder
from kmind.workloads.host import find_tool, need_space, run_process

__all__ = ["FioJob", "lay_out_file", "parse_report", "parse_series", "run_fio", "warm_file"]

_CHUNK = 8 << 20


@dataclass(frozen=True)
class FioJob:
    """One fio job: engine, pattern ("read", "randread"), block size in bytes, queue depth.

    The pattern is repeated until the time is up. ``zipf`` is the exponent by which some blocks of
    a random pattern are read more often than others; 0: all alike.
    """

    engine: str
    pattern: str
    block: int = 4096
    depth: int = 1
    direct: bool = False
    zipf: float = 0.0


def lay_out_file(dir: Path, size: int) -> Path:
    """A file of ``size`` random bytes under ``dir``; one that is there already is kept.

    Random, because storage below may compress or share equal blocks. The file
    takes its name only when it is complete. Raises KmindError where another user can
    change the folder.
    """
    path = scratch_folder(dir) / f"read-{size >> 20}M.dat"
    if finished_scratch(path, size):
        return path
    need_space(dir, size + (1 << 30))
    unfinished = path.with_suffix(".part")
    random = np.random.default_rng(size)
    with os.fdopen(create_scratch(unfinished), "wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(random.bytes(min(_CHUNK, size - start)))
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    return path


def warm_file(path: Path) -> None:
    """Read a file from end to end, so that the page cache holds it."""
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def run_fio(
    job: FioJob, path: Path, size: int, duration: float, procs: Path | None
) -> tuple[dict[str, Any], list[float]]:
    """Run a job on ``path``; fio's report, and operations a second, one entry a second.

    fio gives no access pattern away (``fadvise_hint=0``), keeps the page cache as
    it finds it (``invalidate=0``), and is one process (``thread``).
    """
    with tempfile.TemporaryDirectory() as scratch:
        argv = [
            find_tool("fio"),
            "--name=load",
            f"--filename={path}",
            f"--size={size}",
            f"--ioengine={job.engine}",
            f"--rw={job.pattern}",
            f"--bs={job.block}",
            f"--iodepth={job.depth}",
            f"--direct={int(job.direct)}",
            "--fadvise_hint=0",
            "--invalidate=0",
            "--norandommap",
            "--thread",
            "--output-format=json",
            f"--write_iops_log={scratch}/load",
            "--log_avg_msec=1000",
            "--time_based",
            f"--runtime={duration:g}",
        ]
        if job.zipf:
            argv.append(f"--random_distribution=zipf:{job.zipf:g}")
        report = parse_report(run_process(argv, procs=procs))
        log = Path(scratch, "load_iops.1.log")
        return report, parse_series(log.read_text() if log.exists() else "")


def parse_report(output: str, sides: Sequence[str] = ("read",)) -> dict[str, Any]:
    """The JSON report of fio, which may follow lines of text.

    Raises KmindError when there is none, or when the job failed or moved nothing on these sides,
    "read" and "write".
    """
    try:
        report: dict[str, Any] = json.loads(output[output.index("{") :])
        job = report["jobs"][0]
        failed = job["error"]
        done = any(job[side]["total_ios"] and job[side]["runtime"] for side in sides)
    except (ValueError, LookupError, TypeError):
        raise KmindError("fio printed no report", hint="run the same fio command by hand") from None
    if failed or not done:
        raise KmindError(f"the fio job failed with error {failed}", hint="is the disk healthy?")
    return report


def parse_series(log: str) -> list[float]:
    """Operations a second from fio's averaged IOPS log (lines "msec, iops, ...")."""
    return [float(line.split(",")[1]) for line in log.splitlines() if line.strip()]
