# SPDX-License-Identifier: Apache-2.0
"""The demo without root or BPF: the same module, on a simulated agent and disk.

The extension, the admission, the policy, the journal and the actuator are the real
ones. The disk is a model (`kmind.workloads.simulated_disk`) whose virtual time follows the
clock; its knob is a file in a temporary folder.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kmind.agent.sim.agent import SimAgent
from kmind.agent.types import Mode
from kmind.cli._demo_run import tell_change
from kmind.events import Event
from kmind.extension import find_module, parse_parameters
from kmind.guard import Journal, Policy
from kmind.knobs import Target, get_knob
from kmind.runtime.instance.instance import Instance
from kmind.runtime.services import InstanceSpec, Services
from kmind.workloads.simulated_disk import DiskModel, SimulatedDisk, make_disk_files
from kmind.workloads.streams import random

__all__ = ["simulate"]

_BEFORE_S = 2.0
_WITH_S = 15.0
_SLICE_S = 0.01
_DEFAULT_KB = 128  # the kernel's own


class _Reader:
    # Reads a mapped file at random, as fast as the model of the disk lets it.

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        self._stream = random(1 << 16, pages=DiskModel().file_pages)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SLICE_S):
            behind = time.monotonic() - self._disk.now
            if behind > 0:
                self._disk.run(self._stream, behind, mapped=True)


def simulate(say: Callable[[str], None], why: str) -> dict[str, Any]:
    """Run the demo on the simulated disk; the result, as ``kmind demo --json`` has it."""
    say(f"kmind demo on a simulated disk, not on this machine's kernel: {why}.")
    with tempfile.TemporaryDirectory(prefix="kmind-demo-") as folder:
        root = Path(folder)
        return _compare(say, root, make_disk_files(root, read_ahead_kb=_DEFAULT_KB))


def _compare(say: Callable[[str], None], root: Path, target: Target) -> dict[str, Any]:
    module = find_module("readahead")
    columns = module.manifest.columns
    knob = get_knob("block.read_ahead_kb")
    agent = SimAgent(
        gauges=[columns[f.name] for f in module.manifest.features if f.kind == "gauge"],
        hooks=[hook.program for hook in module.manifest.hooks],
        tables=[part.shape for part in module.manifest.tables],
        realtime=False,
        now_ns=time.monotonic_ns(),
    )
    disk = SimulatedDisk(agent, target, now=time.monotonic())
    reader = _Reader(disk)
    changes: list[dict[str, Any]] = []

    def tell(event: Event) -> None:
        if line := tell_change(event, changes):
            say(line)

    with Journal(root / "journal.db") as journal:
        say(f"A reader at random; {knob.name} is {knob.read(target)}.")
        before = _rate(disk, _BEFORE_S, time.sleep)
        say(f"Before: {before:,.0f} reads a second. Now with kmind, mode auto:")
        params = parse_parameters(module.manifest, ["patience=0"])
        spec = InstanceSpec(module, target, params, Mode.AUTO, agent)
        instance = Instance(spec, Services(journal, Policy(), tell, root=root))
        try:
            instance.start()
            _rate(disk, _WITH_S * 2 / 3, instance.step)
            after = _rate(disk, _WITH_S / 3, instance.step)
        finally:
            reader.close()
            summary = instance.stop()
    gain = after / before
    say(f"After: {after:,.0f} reads a second, {gain:.1f} times as many.")
    say(f"Stopped. {knob.name} is {knob.read(target)}, as before. All of this was simulated.")
    run = {
        "before": before,
        "after": after,
        "gain": gain,
        "changes": changes,
        "read_ahead_kb": _DEFAULT_KB,
    }
    restored = bool(summary["restored"])
    return {"backend": "sim", "device": target.name, **run, "runs": [run], "restored": restored}


def _rate(disk: SimulatedDisk, seconds: float, wait: Callable[[float], None]) -> float:
    # Reads a second while ``wait`` is called again and again.
    began, at_first = disk.now, disk.accesses
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        wait(0.1)
    return (disk.accesses - at_first) / (disk.now - began)
