# SPDX-License-Identifier: Apache-2.0
"""The demo without root or BPF: the same module, on a simulated agent and disk.

The extension, the admission, the policy, the journal and the actuator are the real
ones. The disk is a model of a reader through mmap at random: each miss costs a seek,
and the time to bring in as much as the readahead says. Its knob is a file in a
temporary folder.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kmind.agent._base import Mode
from kmind.agent.sim import SimAgent
from kmind.extension import find_module, parse_parameters
from kmind.guard import Actuator, Journal, Policy
from kmind.knobs import Target, get_knob
from kmind.runtime.instance import Instance

__all__ = ["simulate"]

_DEVICE = "sim0"
# Of equal width: unlike one of sysfs, a plain file keeps what a shorter text leaves of it.
_BASELINE_KB = 512
_TRY_KB = 128
_BEFORE_S = 2.0
_WITH_S = 8.0
_TICK_S = 0.01

_SEEK_S = 80e-6
_BYTES_PER_S = 150e6
_HIT_S = 2e-6
_MISS_SHARE = 0.75
_FILE_PAGES = 262_144  # 1 GiB, of which a quarter fits


class _Disk:
    # A reader that goes as fast as the knob lets it, told to the agent as its hooks would.

    def __init__(self, knob: Path, agent: SimAgent, columns: Mapping[str, int]) -> None:
        self.reads = 0.0
        self._knob = knob
        self._agent = agent
        self._columns = columns
        self._noise = np.random.default_rng(1)
        self._rest: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        at = time.monotonic()
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            self._read_for(now - at)
            at = now

    def _read_for(self, seconds: float) -> None:
        size = int(self._knob.read_text()) * 1024
        miss_s = _SEEK_S + size / _BYTES_PER_S
        mean_s = _MISS_SHARE * miss_s + (1 - _MISS_SHARE) * _HIT_S
        reads = seconds / mean_s * self._noise.normal(1, 0.03)
        misses = reads * _MISS_SHARE
        pages = misses * max(size // 4096, 1)
        self.reads += reads
        for name, amount in {
            "faults": reads,
            "fault_misses": misses,
            "sync_readahead": misses,
            "strides": misses,
            "stride_pages": misses * _FILE_PAGES / 3,
            "stride_spread": misses * _FILE_PAGES / 4,
            "added_pages": pages,
            "removed_pages": pages,
            "device_reads": misses,
            "device_bytes": pages * 4096,
            "device_ns": misses * miss_s * 1e9,
        }.items():
            whole, self._rest[name] = divmod(self._rest.get(name, 0.0) + amount, 1)
            self._agent.count(self._columns[name], int(whole))


def simulate(say: Callable[[str], None], why: str) -> dict[str, Any]:
    """Run the demo on the simulated disk; the result, as ``kmind demo --json`` has it."""
    say(f"kmind demo on a simulated disk, not on this machine's kernel: {why}.")
    with tempfile.TemporaryDirectory(prefix="kmind-demo-") as folder:
        root = Path(folder)
        target = _make_device(root)
        return _compare(say, root, target)


def _make_device(root: Path) -> Target:
    # Its number is one that no real disk has.
    device = root / "sys/block" / _DEVICE
    (device / "queue").mkdir(parents=True)
    (device / "dev").write_text(f"{(1 << 12) - 1}:{(1 << 20) - 1}\n")
    (device / "queue/read_ahead_kb").write_text(f"{_BASELINE_KB}\n")
    return Target.block(_DEVICE, root=root)


def _compare(say: Callable[[str], None], root: Path, target: Target) -> dict[str, Any]:
    module = find_module("readahead")
    columns = module.manifest.columns
    knob = get_knob("block.read_ahead_kb")
    agent = SimAgent(
        gauges=[columns[f.name] for f in module.manifest.features if f.kind == "gauge"],
        hooks=[hook.program for hook in module.manifest.hooks],
    )
    disk = _Disk(knob.file(target), agent, columns)
    changes: list[dict[str, Any]] = []
    reasons: set[str] = set()

    def tell(event: str, /, **fields: Any) -> None:
        if event == "applied":
            changes.append({n: fields[n] for n in ("knob", "old", "value", "reason", "evidence")})
            say(f"  {knob.name} {fields['old']} -> {fields['value']}: {fields['reason']}")
        elif event == "verdict" and fields["verdict"] == "renewed":
            if fields["reason"] not in reasons:
                reasons.add(fields["reason"])
                say(f"  {knob.name} stays {fields['value']}: {fields['reason']}")
        elif event == "undone":
            say(f"  {knob.name} back to {fields['value']}: {fields['why']}.")

    policy = Policy()
    with Journal(root / "journal.db") as journal:
        say(f"A reader at random; {knob.name} is {knob.read(target)}.")
        before = _rate(disk, _BEFORE_S, time.sleep)
        say(f"Before: {before:,.0f} reads a second. Now with kmind, mode auto:")
        instance = Instance(
            module,
            target,
            parse_parameters(module.manifest, ["patience=0", f"random_kb={_TRY_KB}"]),
            agent=agent,
            actuator=Actuator(journal, policy, root=root),
            policy=policy,
            mode=Mode.AUTO,
            emit=tell,
        )
        try:
            instance.start()
            _rate(disk, _WITH_S * 2 / 3, instance.step)
            after = _rate(disk, _WITH_S / 3, instance.step)
        finally:
            disk.close()
            summary = instance.stop()
    gain = after / before
    say(f"After: {after:,.0f} reads a second, {gain:.1f} times as many.")
    say(f"Stopped. {knob.name} is {knob.read(target)}, as before. All of this was simulated.")
    return {
        "backend": "sim",
        "device": _DEVICE,
        "before": before,
        "after": after,
        "gain": gain,
        "changes": changes,
        "restored": bool(summary["restored"]),
    }


def _rate(disk: _Disk, seconds: float, wait: Callable[[float], None]) -> float:
    # Reads a second while ``wait`` is called again and again.
    began, at_first = time.monotonic(), disk.reads
    while time.monotonic() < began + seconds:
        wait(0.1)
    return (disk.reads - at_first) / (time.monotonic() - began)
