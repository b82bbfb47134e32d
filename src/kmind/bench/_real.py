# SPDX-License-Identifier: Apache-2.0
"""A/A experiments on the real kernel: what "no effect" looks like on a disk under load.

While fio reads, ``vm.page-cluster`` goes between two values: readahead from swap, of which
that load has none. The knob is really written, under journal and gate, and nothing changes.
Loads take turns, both at random: through mmap, in a memory that cannot hold the file, and
from the page cache; the disk's own readahead is 128 KiB all the while.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from kmind.agent.core.core import Core
from kmind.errors import KmindError
from kmind.events import Event
from kmind.evidence import Design, Experiment
from kmind.extension import find_module, parse_parameters
from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.knobs import get_knob, parse_target
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.manual import Question, evaluate
from kmind.runtime.instance.agent_factory import make_bpf_agent, need_root
from kmind.workloads.disk import Workload, make_workload
from kmind.workloads.host import device_of

__all__ = ["LOADS", "REAL_DESIGN", "real_aa"]

LOADS = ("mmap-random", "pread-random-cached")
"""The loads that take turns (`kmind.workloads.disk`)."""

REAL_DESIGN = Design(block_s=0.1, wash_out_s=0.02, max_s=10.0)
"""Shorter than in an instance, so that many runs fit; calibration is part of the time."""

_KNOB = get_knob("vm.page-cluster")
_READAHEAD, _READAHEAD_KB = get_knob("block.read_ahead_kb"), 128
_START_S = 4.0  # until fio reads
_RUN_S = 60.0  # of fio: then its page cache begins anew
_PATIENT_S = 3600.0


def real_aa(runs: int, dir: Path) -> list[Experiment]:
    """So many finished A/A experiments; progress goes to stderr.

    ``dir`` keeps the files that are read. Raises PrivilegeError without root,
    NotSupportedError where kernel or fio lack something.
    """
    need_root()
    loads = [make_workload(name, quick=True) for name in LOADS]
    for load in loads:
        load.prepare(dir)
    by_load: list[list[Experiment]] = [[] for _ in loads]
    with tempfile.TemporaryDirectory(prefix="kmind-bench-") as folder:
        for number, (load, done) in enumerate(zip(loads, by_load, strict=True)):
            wanted = len(range(number, runs, len(loads)))
            while len(done) < wanted:
                _while_it_reads(load, wanted, done, Path(folder), device_of(dir), number)
    return [by_load[run % len(loads)][run // len(loads)] for run in range(runs)]


def _while_it_reads(
    load: Workload,
    wanted: int,
    done: list[Experiment],
    folder: Path,
    device: str,
    number: int,
) -> None:
    # One run of the load, and as many experiments as fit.
    reader = _Reader(load, min(_RUN_S, (wanted - len(done) + 1) * REAL_DESIGN.max_s))
    reader.start()
    try:
        while reader.is_alive() and len(done) < wanted:
            experiment = _one(folder, device, seed=(number, len(done)))
            if reader.is_alive():  # else the load ended in the middle
                done.append(experiment)
                print(
                    f"A/A {len(done)} of {wanted}, {load.name}: {experiment.outcome}, "
                    f"{experiment.reason}",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        reader.join()
    if reader.failed:
        raise reader.failed


def _one(folder: Path, device: str, *, seed: tuple[int, int]) -> Experiment:
    module = find_module("readahead")
    target = parse_target(device)
    stands = int(_KNOB.read(parse_target("system")))
    with (
        Journal(folder / "journal.db") as journal,
        EvidenceStore(None) as store,
        Core.private() as core,
        Gate.open(core.approved_fd) as gate,
    ):
        slot = core.register("bench", module.manifest.name, "bench")
        params = parse_parameters(module.manifest, ())
        agent = make_bpf_agent(module, target, params, deadline_s=_PATIENT_S, core=core, slot=slot)
        actuator = Actuator(journal, Policy(), gate=gate)
        try:
            actuator.apply(
                _READAHEAD, target, _READAHEAD_KB, who="bench", why="a bench", by_admin=True
            )
            _, experiment = evaluate(
                Question(
                    _KNOB,
                    parse_target("system"),
                    stands + 1 if stands < _KNOB.maximum else stands - 1,
                    design=REAL_DESIGN,
                ),
                module.manifest,
                agent=agent,
                actuator=actuator,
                store=store,
                emit=_ignore,
                rng=np.random.default_rng(seed),
            )
        finally:
            actuator.undo_all()
            agent.close()
    return experiment


def _ignore(event: Event) -> None:
    pass


class _Reader(threading.Thread):
    # The load, for so many seconds; it is waited for until it reads.

    def __init__(self, load: Workload, seconds: float) -> None:
        super().__init__(daemon=True)
        self._load = load
        self._seconds = seconds
        self._reading = threading.Event()
        self.failed: KmindError | None = None

    def start(self) -> None:
        super().start()
        self._reading.wait(_START_S)

    def run(self) -> None:
        try:
            self._load.run(self._seconds)
        except KmindError as error:
            self.failed = error
        finally:
            self._reading.set()
