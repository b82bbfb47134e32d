# SPDX-License-Identifier: Apache-2.0
"""``kmind demo``: before, with and after kmind, for a random reader on a disk.

On the real kernel where that is possible: fio reads a file through mmap, in a
control group that cannot cache it. Once from the kernel's own read_ahead_kb and once from
what the machine has, for the gain depends on it. Else on a simulated disk, and the first line
says so.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmind.cli._demo_run import Runner, check_run
from kmind.cli.output import Lines, json_line
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import Knob, Target, get_knob, parse_target
from kmind.paths import cache_folder, journal_path
from kmind.util.scratch import scratch_folder
from kmind.workloads.disk import Workload, make_workload
from kmind.workloads.host import device_of

__all__ = ["SCHEMA", "demo_command"]

SCHEMA = "kmind.demo/1"

_NEEDS = (
    "capabilities",
    "sandbox_capabilities",
    "time_namespace",
    "libbpf",
    "btf",
    "bpf_timer",
    "tp_btf",
)
_MODULE = "readahead"
_KNOB = "block.read_ahead_kb"
_WORKLOAD = "mmap-random"
_BEFORE_S = 6.0
_WITH_S = 27.0
_DEFAULT_KB = 128  # the kernel's: VM_READAHEAD_PAGES, include/linux/mm.h


class _Story:
    # Tells what happens, in lines of words or of JSON, and ends with the result.

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._lines = Lines(sys.stdout)

    def say(self, text: str) -> None:
        # Under JSON, an object with the key "say".
        self._lines.write(json_line(SCHEMA, {"say": text}) if self._json else text)

    def end(self, result: dict[str, Any]) -> None:
        if self._json:
            self._lines.write(json_line(SCHEMA, result))


def demo_command(*, json: bool) -> int:
    """Run the demo; 0 if the knob holds its first value again at the end."""
    story = _Story(json=json)
    lacking = _lacking()
    if lacking:
        from kmind.cli._demo_sim import simulate

        result = simulate(story.say, lacking)
    else:
        result = _on_the_kernel(story.say)
    story.end(result)
    return 0 if result["restored"] else 1


def _lacking() -> str:
    # The reason why the real kernel cannot be used, or "".
    if os.geteuid() != 0:
        return "you are not root"
    from kmind.bpf import probe

    for name in _NEEDS:
        if (feature := probe.probe(name)).state != "ok":
            return f"{name} is {feature.state} here: {feature.cause}"
    return ""


def _on_the_kernel(say: Callable[[str], None]) -> dict[str, Any]:
    folder = scratch_folder(cache_folder() / "demo")
    device = device_of(folder)
    target, knob = parse_target(device), get_knob(_KNOB)
    # Of the run that begins with a value that this process holds: one journal, one holder.
    state = journal_path().parent / "demo"
    for path in (state / "journal.db", journal_path()):  # as they were changed, backwards
        if path.exists():
            with Journal(path) as journal:
                restore(journal, Policy.load(), root=target.root)
    current = int(knob.read(target))
    say(f"kmind demo on the real kernel: disk {device}, {_KNOB} {current}.")
    check_run(device, state)
    say(f"A file is laid out in {folder}, and kept there for the next time.")
    load = make_workload(_WORKLOAD, quick=True)
    load.prepare(folder)
    say("fio reads 4 KiB at random through mmap; its memory holds a quarter of the file.")
    starts = {_DEFAULT_KB: "the kernel's own default", current: "as found"}
    runs = []
    for start, what in starts.items():
        say(f"From {_KNOB} {start}, {what}:")
        with _set_to(start, knob, target) as held:
            own = state if held else None
            runs.append({"read_ahead_kb": start} | _measure(say, load, device, own))
    shutil.rmtree(state, ignore_errors=True)
    # The smaller gain first: what a machine happens to hold is no merit of kmind's. And before
    # all others a run in which nothing was kept: whatever the disk did then, it did by itself.
    runs.sort(key=lambda run: (bool(run["changes"]), run["gain"]))
    for run in runs:
        rates = f"{run['before']:,.0f} to {run['after']:,.0f} a second"
        where = f"from {_KNOB} {run['read_ahead_kb']}, {starts[run['read_ahead_kb']]}"
        if run["changes"]:
            say(f"{run['gain']:.1f} times as many reads, {where}: {rates}.")
        else:
            say(f"Nothing was kept {where}; by itself the disk went from {rates}.")
    as_before = "as before" if knob.read(target) == current else f"and was {current} before"
    say(f"Stopped. {_KNOB} is {knob.read(target)}, {as_before}. Check: {knob.show_command(target)}")
    restored = all(run["restored"] for run in runs) and knob.read(target) == current
    for run in runs:
        del run["restored"]
    return {"backend": "bpf", "device": device, **runs[0], "runs": runs, "restored": restored}


def _measure(
    say: Callable[[str], None], load: Workload, device: str, state: Path | None
) -> dict[str, Any]:
    # One run of the load without kmind, and one with it.
    before = statistics.median(_series(load, _BEFORE_S))
    say(f"Before: {before:,.0f} reads a second.")
    say(f"Now the same with: kmind run {_MODULE} {device} --mode auto")
    with Runner([_MODULE, device, "patience=2", "--mode", "auto"], say, state) as runner:
        series = runner.beside(lambda: _series(load, _WITH_S))
    after = statistics.median(series[-len(series) // 3 :])
    say("Reads in each second: " + " ".join(f"{rate:,.0f}" for rate in series))
    say(f"After: {after:,.0f} reads a second.")
    return {
        "before": before,
        "after": after,
        "gain": after / before,
        "changes": runner.changes,
        "restored": runner.restored,
    }


@contextmanager
def _set_to(value: int, knob: Knob, target: Target) -> Iterator[bool]:
    # Through the journal, so that a demo that is killed leaves nothing for good. True if this
    # process holds the knob: it does not where the value stood already.
    with Journal() as journal:
        actuator = Actuator(journal, Policy.load(), root=target.root)
        try:
            differs = knob.read(target) != value
            if differs:
                why = f"the demo begins with {value}"
                actuator.apply(
                    knob, target, value, who=f"demo@{target.name}", why=why, by_admin=True
                )
                actuator.finish()  # open files are told before anything is measured
            yield differs
        finally:
            actuator.undo_all()


def _series(load: Workload, seconds: float) -> list[float]:
    # Reads in each second; fio logs none for a run that is too short.
    result = load.run(seconds)
    return result.series or [result.ops_per_s]
