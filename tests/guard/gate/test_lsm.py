# SPDX-License-Identifier: Apache-2.0
"""The gate for sysfs, as far as any kernel shows it; tests/vm/test_lsm.py has a fitting one."""

from __future__ import annotations

from pathlib import Path

import pytest
from guard.gate_support import PRESSURE

import kmind.guard.gate.gate
from kmind.bpf.probe import probe
from kmind.errors import KnobError
from kmind.guard import Actuator, Gate, GateEvent, Journal, Policy
from kmind.guard.gate import _lsm
from kmind.guard.gate._layout import read_event
from kmind.knobs import Target, get_knob

MERGES = get_knob("block.nomerges")
DISK = Target("block", "vda", 254 << 20)


def test_an_event_of_sysfs_has_no_value() -> None:
    names = [b"tuned".ljust(16, b"\0"), b"/sys/block/vda/queue/nomerges".ljust(64, b"\0")]
    head = (7).to_bytes(8, "little") + b"".join(n.to_bytes(4, "little") for n in (1, 2, 33, 1))
    event = read_event(head + b"".join(names) + bytes(32))
    assert event == GateEvent("/sys/block/vda/queue/nomerges", 1, 2, True, 33, "tuned", "", 7)
    assert str(event) == "tuned (pid 33) wrote to /sys/block/vda/queue/nomerges"
    assert not event.sets(0)


@pytest.mark.parametrize("acts", [True, False])
def test_sysfs_is_covered_where_the_kernel_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, acts: bool
) -> None:
    monkeypatch.setattr(kmind.guard.gate.gate, "acts", lambda: acts)
    assert Gate.covers(MERGES, DISK) is acts
    assert Gate.covers(PRESSURE, Target.system())
    assert not Gate.covers(MERGES, Target("block", "vda", 254 << 20, tmp_path))


@pytest.mark.kernel("libbpf")
def test_it_is_tried_and_not_guessed() -> None:
    found = probe("lsm")
    # "missing" may mean only that the list of security modules cannot be read.
    assert _lsm.acts() or found.state != "ok", found
    assert not (_lsm.acts() and found.state == "refused"), found


@pytest.mark.kernel("cgroup_sysctl", "cgroup2")
@pytest.mark.fault
def test_where_it_should_act_and_cannot_be_loaded_sysfs_is_only_read(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, spare: Target, tmp_path: Path
) -> None:
    monkeypatch.setattr(kmind.guard.gate.gate, "acts", lambda: True)
    monkeypatch.setattr(_lsm, "_OBJECT", tmp_path / "lsm.bpf.o")
    before = MERGES.read(spare)
    actuator = Actuator(journal, Policy())
    with pytest.raises(KnobError, match=r"block.nomerges cannot be gated: cannot read .*lsm.bpf.o"):
        actuator.apply(MERGES, spare, 2, who="test@it", why="")
    assert (MERGES.read(spare), actuator.held, journal.history()) == (before, [], [])
