# SPDX-License-Identifier: Apache-2.0
"""Compare the readahead tuner with fixed values, the machine's and a sweep's best.

For each load, and from each of two values that a machine may start with: that value
fixed (``default``), the best of a sweep of fixed values (``oracle``), and kmind in mode
auto, which starts from the same value (``kmind``). All of them run by turns, those of both
starts in one round, after kmind has seen the load a few times (``visits``). The sweep is coarse
and of half the seconds, leaves out small values where larger ones are far behind already, and
then tries half and double of its best. Beside that: what watching
costs a load that needs no tuning, what kmind costs while the pattern is steady, and what a
proposal by a model costs (``kmind.bench._proposal``).
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmind.bench._instance import agent_statistics, cpu_shares, kmind_beside, sampled, tree
from kmind.bench._options import DEVICE, DIR, ONLY
from kmind.bench._proposal import measure_proposals
from kmind.bench._results import Metric, describe_machine, interleaved, over_rounds
from kmind.command import Flag, Option
from kmind.errors import KmindError, UsageError
from kmind.guard import Actuator, Journal, Policy
from kmind.infer.lazy import need
from kmind.knobs import get_knob, parse_target
from kmind.runtime.instance.agent_factory import need_root
from kmind.util.scratch import scratch_folder
from kmind.workloads.db_bench import BENCHMARKS
from kmind.workloads.disk import DEFAULT_DIR, Alternating, Workload, make_workload
from kmind.workloads.host import device_of, free_memory_kept

__all__ = ["OPTIONS", "PARTS", "SCHEMA", "WORKLOADS", "run_readahead_bench"]

OPTIONS: tuple[Option | Flag, ...] = (DIR, DEVICE, ONLY)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.readahead/4"

WORKLOADS = (
    "mmap-random",
    "mmap-random-fits",
    "mmap-zipf",
    "mmap-sequential",
    "pread-sequential",
    *(f"db-{benchmark}-{way}" for benchmark in BENCHMARKS for way in ("mmap", "pread")),
    "alternating",
)
"""Loads that kmind tunes, one row each, from each start."""

_OVERHEAD = {
    "observe": "pread-random-direct",
    "observe_cached": "pread-random-cached",
    "observe_mapped": "db-readseq-mmap",
}
_STEADY = "pread-sequential-steady"

PARTS = (*WORKLOADS, *_OVERHEAD, "cpu", "proposal")
"""Parts that ``only`` may name."""

_KNOB = "block.read_ahead_kb"
_TRIES = 3
_FOLLOW_S = 0.02
_LEAST, _MOST = 4, 8192  # of the sweep, in kB


@dataclass(frozen=True)
class _Plan:
    """Extent of the bench: seconds per run, rounds, the sweep, and the starts, both in kB.

    ``visits`` is the number of times that kmind has seen a load before anything is compared.
    """

    seconds: float
    visits: int
    rounds: int
    overhead_seconds: float
    overhead_rounds: int
    sweep: Sequence[int]
    starts: Sequence[int]


# The kernel's own start, and the one of many virtual machines' images.
_STARTS = (128, 8192)
_FULL = _Plan(8, 3, 6, 6, 6, [4, 16, 64, 256, 1024, 4096], _STARTS)
_QUICK = _Plan(6, 2, 2, 4, 2, [16, 1024], _STARTS)


def run_readahead_bench(
    *,
    quick: bool = False,
    dir: Path = DEFAULT_DIR,
    device: str | None = None,
    only: list[str] | None = None,
) -> dict[str, Any]:
    """Run the bench and return its result; progress goes to stderr, each row as it is done.

    ``dir`` keeps the files of the loads (about 7 GiB, 2 GiB with ``quick``);
    ``device`` is the disk that is tuned, by default the one that holds ``dir``.
    ``only`` names some of ``PARTS``. Needs root. Raises PrivilegeError,
    UsageError, NotSupportedError (fio or db_bench missing), and KmindError when
    kmind fails, or leaves the knob changed.
    """
    parts = list(PARTS) if only is None else only
    for part in parts:
        if part not in PARTS:
            raise UsageError(
                f"bench readahead has no part {part!r}", hint=f"choose from {', '.join(PARTS)}"
            )
    need("scipy.stats", "learn")  # asked for now, and not after the first load
    need_root(extension=True)
    folder = scratch_folder(dir)
    bench = _Bench(_QUICK if quick else _FULL, quick, folder, device or device_of(folder))
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "quick": quick,
        "machine": describe_machine(bench.device),
    }
    names = [name for name in WORKLOADS if name in parts]
    if names:
        result["workloads"] = [row for name in names for row in bench.compare(name)]
    for part, name in _OVERHEAD.items():
        if part in parts:
            result |= bench.overhead(part, name)
    if "cpu" in parts:
        result |= bench.cpu()
    if "proposal" in parts:
        result["proposal"] = measure_proposals(9 if quick else 101)
    return result


class _Bench:
    """One run of the bench on one disk."""

    def __init__(self, plan: _Plan, quick: bool, dir: Path, device: str) -> None:
        self.device = device
        self._plan = plan
        self._quick = quick
        self._dir = dir
        self._target = parse_target(device)
        self._knob = get_knob(_KNOB)
        self._default = int(self._knob.read(self._target))

    def compare(self, name: str) -> Iterator[dict[str, Any]]:
        """A row for each start: that value, the best fixed value, and kmind."""
        with free_memory_kept():
            yield from self._compare(self._prepared(name))

    def _compare(self, load: Workload) -> Iterator[dict[str, Any]]:
        swept = self._swept(load)
        starts = self._plan.starts
        best = max(swept, key=lambda value: swept[value])
        fixed: dict[int, list[float]] = {value: [] for value in (*starts, best)}
        tuned: dict[int, list[float]] = {start: [] for start in starts}
        settled: dict[int, list[float]] = {start: [] for start in starts}
        with tempfile.TemporaryDirectory() as folder:
            state = {start: Path(folder, str(start)) for start in starts}
            visits = {
                start: [
                    self._tuned(load, start, state[start], self._plan.seconds)[0]
                    for _ in range(self._plan.visits)
                ]
                for start in starts
            }
            arms = [f"fixed {value}" for value in fixed] + [f"kmind {start}" for start in starts]
            for order in interleaved(arms, self._plan.rounds):
                for arm in order:
                    how, value = arm.split()[0], int(arm.split()[1])
                    if how == "fixed":
                        fixed[value].append(self._fixed(load, value, self._plan.seconds))
                        continue
                    result, times = self._tuned(load, value, state[value], self._plan.seconds)
                    tuned[value].append(result)
                    settled[value] += times
        # A value that won the sweep by chance may lose by the median.
        oracle = max(fixed, key=lambda value: float(np.median(fixed[value])))
        for start in starts:
            row: dict[str, Any] = {"name": load.name, "from": start, "unit": load.unit}
            row |= _beside(fixed[start], fixed[oracle], oracle, tuned[start])
            row["visits"] = visits[start]
            if settled[start]:
                row |= Metric("settle_s", settled[start]).as_json()
            row["sweep"] = {str(value): swept[value] for value in sorted(swept)}
            _say(json.dumps(row))
            yield row

    def _swept(self, load: Workload) -> dict[int, float]:
        # Value to result: the plan's and the starts, the largest first, then the neighbours of the
        # best. Below two values that make less than half of the best no smaller one is tried.
        seconds = self._plan.seconds / 2
        swept: dict[int, float] = {}
        hopeless = 0
        for value in sorted({*self._plan.sweep, *self._plan.starts}, reverse=True):
            if hopeless < 2 or value in self._plan.starts:
                swept[value] = self._fixed(load, value, seconds)
                hopeless = hopeless + 1 if 2 * swept[value] < max(swept.values()) else 0
        best = max(swept, key=lambda value: swept[value])
        for value in (best // 2, best * 2):
            if _LEAST <= value <= _MOST and value not in swept:
                swept[value] = self._fixed(load, value, seconds)
        return swept

    def overhead(self, part: str, name: str) -> dict[str, float]:
        """Measure by how many percent a load slows down beside kmind in mode observe.

        ``PART_aa_percent`` is the difference between two runs without kmind.
        """
        load = self._prepared(name)
        seconds = self._plan.overhead_seconds
        lost, apart = [], []
        load.run(seconds)  # not counted: what lies below the disk may be cold
        for order in interleaved(["without", "again", "observed"], self._plan.overhead_rounds):
            value = {}
            for arm in order:
                if arm == "observed":
                    with kmind_beside(self.device, "observe"):
                        value[arm] = load.run(seconds).value
                else:
                    value[arm] = load.run(seconds).value
                _say(f"{name}: {arm} {value[arm]:,.0f} {load.unit}")
            without = (value["without"] + value["again"]) / 2
            lost.append(100 * (1 - value["observed"] / without))
            apart.append(100 * abs(value["without"] - value["again"]) / without)
        return (
            Metric(f"{part}_overhead_percent", lost, percent=True).as_json()
            | Metric(f"{part}_aa_percent", apart, percent=True).as_json()
        )

    def cpu(self) -> dict[str, float]:
        """CPU of kmind in percent of one core while the pattern is steady: 128 KiB reads in order.

        In all, of the extension, of the owner beside it, and of the eBPF programs. Taken over
        the last third of the run, in ten pieces. Mode auto, and nothing known from before.
        """
        load = self._prepared(_STEADY)
        seconds = 3 * self._plan.seconds
        with (
            tempfile.TemporaryDirectory() as state,
            agent_statistics(),
            kmind_beside(self.device, "auto", state=Path(state)) as pid,
            sampled([pid], seconds / 30) as samples,
            sampled(tree(pid)[1:], seconds / 30) as children,
        ):
            load.run(seconds)
        if not any(sample.programs for sample in samples):
            raise KmindError("no eBPF program of kmind ran", hint="see kmind doctor")
        shares = cpu_shares(samples, seconds / 3)
        extension = [processes for processes, _ in cpu_shares(children, seconds / 3)]
        parts = {
            "cpu_percent": [processes + programs for processes, programs in shares],
            "cpu_extension_percent": extension,
            "cpu_owner_percent": [
                processes - own for (processes, _), own in zip(shares, extension, strict=False)
            ],
            "cpu_programs_percent": [programs for _, programs in shares],
        }
        result: dict[str, float] = {}
        for name, values in parts.items():
            result |= Metric(name, values, percent=True).as_json()
        _say(f"{_STEADY}: kmind took {result['cpu_percent']:.2f} % of a core")
        return result

    def _prepared(self, name: str) -> Workload:
        load = make_workload(name, quick=self._quick)
        _say(f"{name}: laying out its files, unless they are there")
        load.prepare(self._dir)
        return load

    def _fixed(self, load: Workload, value: int, seconds: float) -> float:
        """One run with a fixed value; run again when somebody else set the knob meanwhile."""
        for _ in range(_TRIES):
            with self._set_to(value):
                result = load.run(seconds).value
                disturbed = self._knob.read(self._target) != value
            if not disturbed:
                _say(f"{load.name}: {value} kB {result:,.0f} {load.unit}")
                return result
            _say(f"{load.name}: {value} kB, but the knob was changed meanwhile; once more")
        raise KmindError(
            f"{_KNOB} of {self.device} was changed by somebody else in each of {_TRIES} runs",
            hint="stop what else sets it",
        )

    def _tuned(
        self, load: Workload, start: int, state: Path, seconds: float
    ) -> tuple[float, list[float]]:
        """One run beside kmind in mode auto, from a value and back to it.

        Also how many seconds after the begin of each phase of an alternating load the
        knob last moved in it.
        """
        with self._set_to(start):
            with kmind_beside(self.device, "auto", state=state), self._followed() as moves:
                result = load.run(seconds).value
            self._expect(start, "after kmind was stopped")
        self._expect(self._default, "after the run")
        _say(f"{load.name}: kmind from {start} kB {result:,.0f} {load.unit}")
        phases = load.phases_ if isinstance(load, Alternating) else []
        return result, [
            max((at - begin for at in moves if begin < at < end), default=0.0)
            for _, _, begin, end in phases
        ]

    @contextmanager
    def _set_to(self, value: int) -> Iterator[None]:
        """Hold the knob at a value, through the journal, while the block runs."""
        with Journal() as journal:
            actuator = Actuator(journal, Policy())
            try:
                if value != self._default:
                    actuator.apply(
                        self._knob, self._target, value,
                        who=f"bench@{self.device}", why="the bench compares fixed values",
                    )  # fmt: skip
                    actuator.finish()  # open files are told before anything is measured
                yield
            finally:
                actuator.undo_all()

    @contextmanager
    def _followed(self) -> Iterator[list[float]]:
        """Record when the knob moves, in seconds of CLOCK_MONOTONIC, while a block runs."""
        moves: list[float] = []
        done = threading.Event()

        def follow() -> None:
            last = self._knob.read(self._target)
            while not done.wait(_FOLLOW_S):
                if (now := self._knob.read(self._target)) != last:
                    moves.append(time.monotonic())
                    last = now

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield moves
        finally:
            done.set()
            thread.join()

    def _expect(self, wanted: int, when: str) -> None:
        value = self._knob.read(self._target)
        if value != wanted:
            raise KmindError(
                f"{_KNOB} of {self.device} is {value} {when}, not {wanted} as before",
                hint="run: kmind restore",
            )


def _beside(
    default: list[float], oracle: list[float], oracle_value: int, kmind: list[float]
) -> dict[str, Any]:
    arms = {"default": default, "oracle": oracle, "kmind": kmind}
    found: dict[str, Any] = {"oracle_value": oracle_value}
    for name, values in arms.items():
        found |= Metric(name, values).as_json()
    return (
        found | over_rounds("vs_default", kmind, default) | over_rounds("vs_oracle", kmind, oracle)
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
