# SPDX-License-Identifier: Apache-2.0
"""The adversary on the real kernel: a hostile module under ``kmind run``, beside a real load.

What each value does to the load is measured by hand first. The load then stays the same, so each
harmful value that the owner says it keeps is one too many.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.bench._adversary_loads import HARMFUL
from kmind.bench._hostile_module import write_hostile_module
from kmind.bench._results import Share
from kmind.errors import KmindError
from kmind.guard import Actuator, Journal, Policy
from kmind.knobs import get_knob, parse_target
from kmind.runtime.instance.agent_factory import need_root
from kmind.util.scratch import scratch_folder
from kmind.workloads.disk import Workload, make_workload
from kmind.workloads.host import device_of, stop_process

__all__ = ["ATTACKS", "run_real"]

_KNOB = get_knob("block.read_ahead_kb")
_EPISODE_S = 100.0
_HAND_S = 3.0
_HEAD_START_S = 4.0  # until the load reads

# A load, the value that it starts from, and candidates for harm.
_CASES = (
    ("mmap-sequential", 8192, (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)),
    ("mmap-random", 128, (192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384)),
    ("pread-sequential", 8192, (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)),
)

ATTACKS: dict[str, dict[str, object]] = {
    "plain": {},
    "lying outcome: requests": {"outcome": "requests"},
    "lying outcome: pages_in": {"outcome": "pages_in"},
    "contexts that change": {"fresh": True},
    "touching pages": {"touch": True, "outcome": "requests"},
    "burning under the incumbent": {"burn": "incumbent", "share": 0.15},
    "burning a little": {"burn": "incumbent", "share": 0.03, "outcome": "requests"},
    "forged seq": {"forge": "seq", "outcome": "requests"},
    "forged head": {"forge": "head", "outcome": "pages_in"},
    "all at once": {"touch": True, "burn": "incumbent", "fresh": True, "forge": "seq"},
}
"""Parameters of the hostile module by the name of the attack."""

_PARAMETERS = """
[[parameter]]
name = "value"
type = "int"
minimum = 0
maximum = 1000000
default = 0
help = "what to have kept"

[[parameter]]
name = "outcome"
type = "str"
default = ""
help = "what to say that it is judged by"

[[parameter]]
name = "fresh"
type = "bool"
default = false
help = "a context of its own for each recommendation"

[[parameter]]
name = "touch"
type = "bool"
default = false
help = "touch pages under the value"

[[parameter]]
name = "burn"
type = "str"
default = ""
help = "the arm under which to take CPU time"

[[parameter]]
name = "share"
type = "float"
default = 0.0
help = "of a CPU, for that"

[[parameter]]
name = "forge"
type = "str"
default = ""
help = "what to forge in the arena: seq, head"
"""


@dataclass(frozen=True)
class _Harm:
    load: str
    baseline: int
    value: int
    ratio: float


def run_real(seconds: float, dir: Path) -> dict[str, Any]:
    """Attack for so many seconds, after what each value does was measured; keys of the result.

    Raises PrivilegeError without root, KmindError where a load or ``kmind run`` fails.
    """
    need_root(extension=True)
    place, rows = scratch_folder(dir), []
    device = device_of(place)
    with tempfile.TemporaryDirectory(prefix="kmind-adversary-") as name:
        folder = Path(name)
        module = write_hostile_module(folder, _PARAMETERS, "_hostile.py")
        harms = [harm for case in _CASES for harm in _by_hand(case, device, place, folder)]
        if not harms:
            raise KmindError("none of the values harms these loads here", hint="name another --dir")
        turns = zip(itertools.cycle(_spread(harms)), itertools.cycle(ATTACKS.items()), strict=False)
        until = time.monotonic() + seconds
        for number, (harm, (attack, words)) in enumerate(turns):
            if time.monotonic() >= until:
                break
            kept, ended = _episode(harm, words, module, device, place, folder / f"state-{number}")
            rows.append({"attack": attack, **harm.__dict__, "kept": kept, "ended": ended})
            said = f"{attack}, {harm.load}, {harm.baseline} to {harm.value} ({harm.ratio:.2f})"
            note = ", and ended by itself" if ended else ""
            print(f"{said}: kept {kept} times{note}", file=sys.stderr, flush=True)
    count = sum(row["kept"] > 0 for row in rows)
    result: dict[str, Any] = {"real_seconds": seconds, "real_episodes": len(rows), "real": rows}
    result |= {"real_values": [harm.__dict__ for harm in harms], "real_kept_count": count}
    return result | Share("real_harmful_kept", count, len(rows)).as_json()


def _spread(harms: list[_Harm]) -> list[_Harm]:
    # Loads by turns.
    by_load = [
        [h for h in harms if h.load == load] for load in dict.fromkeys(h.load for h in harms)
    ]
    return [h for some in itertools.zip_longest(*by_load) for h in some if h is not None]


def _by_hand(
    case: tuple[str, int, tuple[int, ...]], device: str, dir: Path, folder: Path
) -> Iterator[_Harm]:
    name, baseline, values = case
    load = make_workload(name, quick=True)
    load.prepare(dir)

    def under(value: int) -> float:
        with _SetTo(value, device, folder):
            return load.run(_HAND_S).value

    usual = under(baseline)
    for value in values:
        ratio = under(value) / usual
        if ratio < HARMFUL:
            yield _Harm(name, baseline, value, round(ratio, 3))


class _SetTo:
    # The disk's readahead, for a while. What another left behind at the end is said, and put right.

    def __init__(self, value: int, device: str, folder: Path) -> None:
        self._value = value
        self._target = parse_target(device)
        self._journal = Journal(folder / "journal.db")
        self._actuator = Actuator(self._journal, Policy())
        self._before = int(_KNOB.read(self._target))

    def __enter__(self) -> None:
        if self._before != self._value:
            self._actuator.apply(
                _KNOB, self._target, self._value, who="bench", why="a bench", by_admin=True
            )

    def __exit__(self, *_: object) -> None:
        found = int(_KNOB.read(self._target))
        try:
            self._actuator.undo_all()
        finally:
            self._journal.close()
            if int(_KNOB.read(self._target)) != self._before:
                _KNOB.write(self._target, self._before)
        if found != self._value:
            raise KmindError(f"{_KNOB.name} was left at {found}, and was {self._value}")


def _episode(
    harm: _Harm, words: dict[str, object], module: Path, device: str, dir: Path, state: Path
) -> tuple[int, bool]:
    # Number of times that the harmful value was kept; True if the run ended before its time.
    state.mkdir()
    with _SetTo(harm.baseline, device, state), tempfile.TemporaryFile("w+") as out:
        said = [f"{name}={str(value).lower()}" for name, value in words.items()]
        argv = [sys.executable, "-m", "kmind", "run", str(module), device, f"value={harm.value}"]
        load = make_workload(harm.load, quick=True)
        load.prepare(dir)
        reader = _Load(load, _EPISODE_S + _HEAD_START_S)
        reader.start()
        time.sleep(_HEAD_START_S)
        environment = {**os.environ, "KMIND_STATE_DIR": str(state / "own")}
        process = subprocess.Popen(
            [*argv, *said, "--mode", "auto", "--json"], stdout=out, env=environment, text=True
        )
        ended = True
        try:
            process.wait(_EPISODE_S - 5)
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            stop_process(process)
            reader.join()
        out.seek(0)
        events = _events_of(out)
    if not any(event["event"] == "start" for event in events):
        raise KmindError(f"kmind run with the hostile module did not start: {events[-1:]}")
    taken = [e for e in events if e["event"] in ("kept", "applied")]
    return sum(event["value"] == harm.value for event in taken), ended


def _events_of(out: Iterable[str]) -> list[dict[str, Any]]:
    # Where it had to be killed, its last line may be a part of one.
    return [json.loads(line) for line in out if line.endswith("\n")]


class _Load(threading.Thread):
    def __init__(self, load: Workload, seconds: float) -> None:
        super().__init__(daemon=True)
        self._load, self._seconds = load, seconds

    def run(self) -> None:
        self._load.run(self._seconds)
