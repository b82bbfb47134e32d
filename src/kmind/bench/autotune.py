# SPDX-License-Identifier: Apache-2.0
"""Compare the safe search with the defaults, tuned's profiles and a sweep.

Each load runs on while its settings change. The sweep has the same time as the search,
tries settings at random, each for as long as a pair of blocks, and takes the best. In the
end all settings are measured by turns, the default twice: ``vs_default`` and the like are ratios
within a round, ``aa`` that of the default to itself.
"""

from __future__ import annotations

import configparser
import contextlib
import http.server
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmind.bench._instance import kmind_beside
from kmind.bench._options import DEVICE, DIR, ONLY
from kmind.bench._results import Metric, describe_machine, interleaved, over_rounds
from kmind.bench._samplers import compare_samplers
from kmind.command import Flag, Option
from kmind.errors import (
    KmindError,
    NotSupportedError,
    PolicyError,
    UsageError,
)
from kmind.guard import Actuator, Journal, Policy
from kmind.infer.lazy import need
from kmind.knobs import Knob, Target, Value, get_knob, parse_target
from kmind.runtime.instance.agent_factory import need_root
from kmind.runtime.instance.extension.checkpoint import unpack
from kmind.util.packages import install_hint
from kmind.util.scratch import scratch_folder
from kmind.workloads.disk import DEFAULT_DIR
from kmind.workloads.host import device_of
from kmind.workloads.loads import LOADS, Count, start_load

__all__ = ["KNOBS", "OPTIONS", "PROFILES", "SCHEMA", "run_autotune_bench"]

OPTIONS: tuple[Option | Flag, ...] = (DIR, DEVICE, ONLY)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.autotune/2"

KNOBS: Mapping[str, tuple[str, ...]] = {
    "fio-fsync": ("block.scheduler", "block.rq_affinity", "vm.dirty_writeback_centisecs"),
    "db_bench": ("block.read_ahead_kb", "block.scheduler", "vm.dirty_background_ratio"),
    "pgbench": ("block.scheduler", "vm.dirty_background_ratio", "vm.dirty_expire_centisecs"),
    "redis": ("block.scheduler", "block.rq_affinity", "thp.enabled"),
    "zram": ("vm.page_cluster", "vm.swappiness", "vm.watermark_scale_factor"),
    "build": ("block.scheduler", "vm.vfs_cache_pressure", "vm.dirty_writeback_centisecs"),
    "mmap-random": ("block.read_ahead_kb", "block.scheduler", "block.rq_affinity"),
}
"""Knobs tuned for each load; the last load is one where a knob is known to matter."""

PROFILES = ("throughput-performance", "latency-performance")
"""Profiles of Debian's tuned that it is compared with, as far as kmind knows their settings."""

_OPTIONS = (
    ("block.read_ahead_kb", "disk", "readahead"),
    ("thp.enabled", "vm", "transparent_hugepages"),
)
_TUNED = (Path("/usr/lib/tuned/profiles"), Path("/usr/lib/tuned"))
_Setting = Mapping[str, Value]


@dataclass(frozen=True)
class _Plan:
    search_s: float
    block_s: float
    final_s: float
    rounds: int
    pairs: int


_FULL = _Plan(300, 1.0, 8, 6, 14)
_QUICK = _Plan(90, 1.0, 4, 2, 6)


def run_autotune_bench(
    *,
    quick: bool = False,
    dir: Path = DEFAULT_DIR,
    device: str | None = None,
    only: list[str] | None = None,
) -> dict[str, Any]:
    """Run the bench and return its result; progress goes to stderr, each row as it is done.

    ``only`` names some of the loads, and leaves the samplers out. A load whose programs are
    not installed is left out, and named. Needs root. Raises PrivilegeError, UsageError, and
    KmindError when kmind fails.
    """
    need("scipy.stats", "learn")  # asked for now, and not after the first quarter of an hour
    names = list(LOADS) if only is None else only
    for name in names:
        if name not in LOADS:
            raise UsageError(f"there is no load {name!r}", hint=f"choose from {', '.join(LOADS)}")
    need_root(extension=True)
    folder = scratch_folder(dir)
    disk = device or device_of(folder)
    bench = _Bench(_QUICK if quick else _FULL, quick, folder, disk)
    rows, missing = [], {}
    for name in names:
        try:
            rows.append(bench.compare(name))
        except NotSupportedError as error:
            missing[name] = str(error)
            _say(f"{name}: left out: {error}")
    machine = describe_machine(disk)
    samplers = [] if only else compare_samplers(1 if quick else 5)
    return {
        "schema": SCHEMA, "quick": quick, "machine": machine, "workloads": rows, "missing": missing,
        "samplers": samplers,
    }  # fmt: skip


class _Bench:
    def __init__(self, plan: _Plan, quick: bool, dir: Path, device: str) -> None:
        self._plan = plan
        self._quick = quick
        self._dir = dir
        self._disk = parse_target(device)

    def compare(self, name: str) -> dict[str, Any]:
        """One row: each setting's rate, and what the search cost."""
        knobs = [get_knob(word) for word in KNOBS[name]]
        found: dict[str, _Setting] = {"default": {}, **_profiles(self._target)}
        with start_load(name, self._dir, quick=self._quick) as count:
            _say(f"{name}: kmind searches for {self._plan.search_s:g} s")
            found["kmind"], cost = self._search(name, count)
            _say(f"{name}: kmind found {dict(found['kmind']) or 'nothing'}; the sweep's turn")
            found["sweep"] = self._sweep(knobs, count)
            found["default-again"] = {}  # an A/A comparison with all the others' chances
            values: dict[str, list[float]] = {arm: [] for arm in found}
            for order in interleaved(list(found), self._plan.rounds):
                for arm in order:
                    with self._set(found[arm]):
                        time.sleep(self._plan.block_s)
                        values[arm].append(_rate(count, self._plan.final_s))
        row: dict[str, Any] = {"name": name, "knobs": list(KNOBS[name])}
        for arm, rates in values.items():
            word = arm.replace("-", "_")
            row |= Metric(word, rates).as_json()
            if arm != "kmind":
                row |= over_rounds(f"vs_{word}", values["kmind"], rates)
            _say(f"{name}: {arm} {row[word]:,.1f} a second")
        row |= over_rounds("aa", values["default-again"], values["default"])
        settings = {arm: dict(setting) for arm, setting in found.items()}
        row |= cost | {"settings": settings}
        _say(json.dumps(row))
        return row

    def _search(self, name: str, count: Count) -> tuple[_Setting, dict[str, Any]]:
        every = 1.0 if name in ("db_bench", "pgbench") else 0.5
        with tempfile.TemporaryDirectory() as state, _served(count) as url:
            words = [
                f"objective=prometheus:{url}?query=rate", "better=higher", f"every={every}",
                f"looks_back={every}",
                f"pairs={self._plan.pairs}",
                f"block={self._plan.block_s}", f"knobs={','.join(KNOBS[name])}",
            ]  # fmt: skip
            with kmind_beside(self._disk.name, "auto", "autotune", words, Path(state)):
                time.sleep(self._plan.search_s)
            file = Path(state) / "memory" / f"autotune@{self._disk.name}.json"
            known = (
                json.loads(unpack(file.read_bytes()))
                if file.exists()
                else {"phases": [], "counts": {}}
            )
        counts = known["counts"]
        phase = max(known["phases"], key=lambda each: each["tries"], default=None)
        cost = {
            "unsafe_trials": counts.get("unsafe", 0),
            "trials": counts.get("trials", 0),
            "worst_regression": round(1 - min(1.0, counts.get("worst", 1.0)), 4),
            "converge_s": phase["converged_s"] if phase else None,
        }
        if phase is None:
            return {}, cost
        names, codes = known["key"]["knobs"], phase["best"]
        setting = {
            n: get_knob(n).decode(code)
            for n, code, was in zip(names, codes, known["key"]["baseline"], strict=True)
            if code != was
        }
        return setting, cost

    def _sweep(self, knobs: Sequence[Knob], count: Count) -> _Setting:
        chance = np.random.default_rng(0)
        best: _Setting = {}
        most = 0.0
        until = time.monotonic() + self._plan.search_s
        policy = Policy()
        setting: _Setting = {}
        while time.monotonic() < until:
            try:
                with self._set(setting):
                    time.sleep(self._plan.block_s / 2)
                    rate = _rate(count, 2 * self._plan.block_s)
                if rate > most:
                    best, most = setting, rate
            except KmindError:
                pass  # a rule between two knobs, or the kernel: it takes no time, so go on
            setting = {
                knob.name: _any(knob, self._target(knob), policy, chance)
                for knob in knobs
                if chance.random() < 0.6
            }
        return best

    def _target(self, knob: Knob) -> Target:
        return self._disk if knob.target == "block" else Target.system()

    @contextlib.contextmanager
    def _set(self, setting: _Setting) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as state, Journal(Path(state) / "journal.db") as journal:
            actuator = Actuator(journal, Policy())
            try:
                self._apply(actuator, setting)
                yield
            finally:
                actuator.undo_all()

    def _apply(self, actuator: Actuator, setting: _Setting) -> None:
        # In an order that the rules between knobs allow.
        todo = list(setting)
        while todo:
            refused: list[tuple[str, KmindError]] = []
            for name in todo:
                knob = get_knob(name)
                target, value = self._target(knob), setting[name]
                try:
                    if knob.exists(target) and knob.read(target) != value:
                        actuator.apply(
                            knob, target, value, who="bench", why="bench autotune", by_admin=True
                        )
                except PolicyError as error:
                    refused.append((name, error))
            if len(refused) == len(todo):
                raise refused[0][1]
            todo = [name for name, _ in refused]


def _any(knob: Knob, target: Target, policy: Policy, chance: np.random.Generator) -> Value:
    if knob.kind == "enum":
        return str(chance.choice(knob.available(target)))
    bound = policy.bound(knob, target)
    low, high = max(bound.minimum, 1), max(bound.maximum, 2)
    value = int(low * (high / low) ** chance.random()) // knob.grid * knob.grid
    return max(bound.minimum, value)


def _rate(count: Count, seconds: float) -> float:
    before, began = count(), time.monotonic()
    time.sleep(seconds)
    return (count() - before) / (time.monotonic() - began)


@contextlib.contextmanager
def _served(count: Count) -> Iterator[str]:
    """Answer as Prometheus does, on loopback: how much was done since the last question."""
    last = [count(), time.monotonic()]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now, done = time.monotonic(), count()
            rate = (done - last[0]) / max(now - last[1], 1e-3)
            last[:] = [done, now]
            data = {"resultType": "scalar", "result": [time.time(), str(rate)]}
            text = json.dumps({"status": "success", "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _profiles(target: Callable[[Knob], Target]) -> dict[str, _Setting]:
    """The settings of tuned's profiles that kmind knows; none where tuned is not installed."""
    found: dict[str, _Setting] = {}
    for name in PROFILES:
        file = next((f / name / "tuned.conf" for f in _TUNED if (f / name).is_dir()), None)
        if file is None:
            _say(f"tuned is not installed, so {name} is left out; {install_hint('tuned')}")
            continue
        text = configparser.ConfigParser(strict=False, interpolation=None)
        text.read(file)
        words = list(text["sysctl"].items()) if text.has_section("sysctl") else []
        words += [(k, text[s][o]) for k, s, o in _OPTIONS if text.has_option(s, o)]
        setting: dict[str, Value] = {}
        for word, value in words:
            with contextlib.suppress(UsageError):
                knob = get_knob(word)
                wanted = knob.parse(value.strip(" >%"))
                stands = knob.read(target(knob))
                # tuned takes ">4096" for: 4096, unless it is more already.
                if value.strip().startswith(">") and not isinstance(stands, str):
                    wanted = max(stands, int(wanted))
                setting[knob.name] = wanted
        found[f"tuned-{name}"] = setting
    return found


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
