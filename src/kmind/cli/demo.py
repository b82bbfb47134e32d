# SPDX-License-Identifier: Apache-2.0
"""``kmind demo``: before, with and after kmind, for a random reader on a disk.

On the real kernel where that is possible: fio reads a file through mmap, in a
control group that cannot cache it. Else on a simulated disk, and the first line says
so.
"""

from __future__ import annotations

import json as json_module
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kmind.cli._report import describe
from kmind.cli.output import Lines, json_line
from kmind.errors import KmindError
from kmind.guard import Journal, Policy, restore
from kmind.knobs import get_knob, parse_target
from kmind.testing.host import device_of
from kmind.testing.workloads import Workload, make_workload
from kmind.util.scratch import default_scratch, scratch_folder

__all__ = ["SCHEMA", "demo_command", "tell_change"]

SCHEMA = "kmind.demo/1"

_NEEDS = (
    "capabilities",
    "sandbox_capabilities",
    "time_namespace",
    "libbpf",
    "btf",
    "arena",
    "bpf_timer",
    "tp_btf",
)
_MODULE = "readahead"
_KNOB = "block.read_ahead_kb"
_WORKLOAD = "mmap-random"
_BEFORE_S = 6.0
_WITH_S = 27.0
_STOP_S = 20.0
_TOLD = ("experiment", "result", "applied", "kept", "undone", "yielded", "failed")


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
    # Why the real kernel cannot be used, or "".
    if os.geteuid() != 0:
        return "this is not root"
    from kmind.bpf import probe

    for name in _NEEDS:
        if (found := probe.probe(name)).state != "ok":
            return f"{name} is {found.state} here: {found.cause}"
    return ""


def _on_the_kernel(say: Callable[[str], None]) -> dict[str, Any]:
    folder = scratch_folder(default_scratch("demo"))
    device = device_of(folder)
    target, knob = parse_target(device), get_knob(_KNOB)
    with Journal() as journal:
        restore(journal, Policy.load())
    baseline = knob.read(target)
    say(f"kmind demo on the real kernel: disk {device}, {_KNOB} {baseline}.")
    say(f"A file is laid out in {folder}, and kept there for the next time.")
    load = make_workload(_WORKLOAD, quick=True)
    load.prepare(folder)
    say("fio reads 4 KiB at random through mmap; its memory holds a quarter of the file.")
    before = statistics.median(_series(load, _BEFORE_S))
    say(f"Before: {before:,.0f} reads a second.")
    say(f"Now the same with: kmind run {_MODULE} {device} --mode auto")
    runner = _Runner(device, say)
    try:
        series = _series(load, _WITH_S)
    finally:
        changes, failed = runner.stop()
    after = statistics.median(series[-len(series) // 3 :])
    gain = after / before
    say("Reads in each second: " + " ".join(f"{rate:,.0f}" for rate in series))
    say(f"After: {after:,.0f} reads a second, {gain:.1f} times as many.")
    if not changes:
        say("No change stood: nothing was measured to help.")
    if failed:
        say(f"kmind run said: {failed}")
    state = "as before" if knob.read(target) == baseline else f"and was {baseline} before"
    say(f"Stopped. {_KNOB} is {knob.read(target)}, {state}. Check: cat {knob.file(target)}")
    return {
        "backend": "bpf",
        "device": device,
        "before": before,
        "after": after,
        "gain": gain,
        "changes": changes,
        "restored": runner.restored and knob.read(target) == baseline,
    }


def _series(load: Workload, seconds: float) -> list[float]:
    # Reads in each second; fio logs none for a run that is too short.
    result = load.run(seconds)
    return result.series or [result.ops_per_s]


def tell_change(event: str, fields: Mapping[str, Any], changes: list[dict[str, Any]]) -> str:
    """An event of ``kmind run`` as a line of the story, or ""; ``changes`` gets what stood."""
    if event in ("applied", "kept"):
        changes.append({n: fields[n] for n in ("knob", "old", "value", "reason", "evidence")})
    untold = event not in _TOLD or (event == "result" and fields["kept"])
    line = "" if untold else describe(event, fields)
    return f"  {line}" if line else ""


class _Runner:
    # "kmind run" beside the load; tells the changes that it makes as they come.

    def __init__(self, device: str, say: Callable[[str], None]) -> None:
        self._say = say
        self.restored = False
        self._changes: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kmind", "run", _MODULE, device, "patience=2",
             "--mode", "auto", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stop(self) -> tuple[list[dict[str, Any]], str]:
        # The changes, and what it said if it failed.
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise KmindError("kmind run did not stop", hint="run: kmind restore") from None
        self._reader.join()
        messages = self._process.stderr.read() if self._process.stderr else ""
        return self._changes, messages.strip() if code else ""

    def _read(self) -> None:
        for text in self._process.stdout or ():
            event = json_module.loads(text)
            if event["event"] == "stop":
                self.restored = event["restored"]
            elif line := tell_change(event["event"], event, self._changes):
                self._say(line)
