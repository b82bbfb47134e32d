# SPDX-License-Identifier: Apache-2.0
"""Advice that the admin has the daemon apply."""

from pathlib import Path

import pytest
from runtime.supervised import QUICK, Rig, value_of
from runtime.supervisor.ranked import ranked

from kmind.abi import layout
from kmind.errors import KmindError
from kmind.knobs import Target, get_knob

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


def test_advice_is_applied_and_undone(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK, mode="advise")
    rig.run_until(lambda: supervisor.advice.list())
    (advice,) = supervisor.advice.list()
    assert rig.of("advice")[0]["advice"] == advice["id"] == "1"
    assert (advice["instance"], advice["value"], advice["state"]) == (name, 512, "open")
    assert advice["command"].endswith(f"/sys/block/{disk}/queue/read_ahead_kb")
    assert supervisor.advice.apply("1")["state"] == "applied"
    assert value_of(disk) == 512
    assert [c.owner.instance for c in supervisor.journal.open_changes()] == ["admin"]
    # It is the admin's now: nobody else gets it.
    rival = rig.load(rig.module("rival"), disk, "value=64", *QUICK)
    rig.run_until(lambda: rig.of("verdict", rival))
    assert rig.of("verdict", rival)[0]["holder"] == "the admin"
    assert supervisor.advice.undo("1")["state"] == "undone"
    assert value_of(disk) in (before, 64)
    rig.run_until(lambda: rig.of("applied", rival))
    # And what an instance holds gives way to it.
    rig.run_until(lambda: [a for a in supervisor.advice.list() if a["state"] == "open"])
    number = next(a["id"] for a in supervisor.advice.list() if a["state"] == "open")
    supervisor.advice.apply(number)
    assert value_of(disk) == 512
    assert "goes to the admin" in rig.of("yielded", rival)[0]["message"]
    supervisor.close(keep=False)
    assert value_of(disk) == before


def test_advice_that_finds_no_room_changes_nothing(rig: Rig, disk: str) -> None:
    """Steps that can fail come before the write: else the value could not be undone."""
    before = value_of(disk)
    supervisor = rig.start()
    rig.load(rig.module(), disk, *QUICK, mode="advise")
    rig.run_until(lambda: supervisor.advice.list())
    core = supervisor.core
    slots = layout.LIMIT["INSTANCES"] - 1
    fillers = [core.register(f"filler@{n}", "filler", "tuner") for n in range(slots - 1)]
    with pytest.raises(KmindError, match=f"no room for admin: {slots} instances are there"):
        supervisor.advice.apply("1")
    core.unregister(fillers.pop())
    for knob in range(layout.LIMIT["LEASES"]):
        core.leases.acquire(fillers[0], knob, 12345, hold_s=60)
    core.leases.leave(
        supervisor.status()[0]["slot"], get_knob("block.read_ahead_kb").id, Target.block(disk).id
    )
    core.leases.acquire(fillers[0], layout.LIMIT["LEASES"], 12345, hold_s=60)
    with pytest.raises(KmindError, match="no room for the lease of"):
        supervisor.advice.apply("1")
    assert value_of(disk) == before
    assert supervisor.advice.get("1")["state"] == "open"
    assert supervisor.journal.open_changes() == []
    assert [each.name for each in core.instances() if each.name == "admin"] == []
    for slot in fillers:
        core.unregister(slot)
    supervisor.advice.apply("1")
    assert value_of(disk) == 512
    supervisor.advice.undo("1")
    assert value_of(disk) == before


def test_advice_gets_the_lease_of_a_module_of_its_own_priority(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    rig.load(rig.module(), disk, *QUICK, mode="advise")
    rig.run_until(lambda: supervisor.advice.list())
    proud = rig.load(rig.module("proud", manifest=ranked(255)), disk, "value=64", *QUICK)
    rig.run_until(lambda: rig.of("applied", proud))
    supervisor.advice.apply("1")
    assert value_of(disk) == 512
    assert [lease["holder"] for lease in supervisor.leases()] == ["the admin"]
    supervisor.requests.unload(proud)
    assert value_of(disk) == 512
    supervisor.advice.undo("1")
    assert value_of(disk) == before


def test_what_advice_has_set_outlives_the_daemon(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    rig.load(rig.module(), disk, *QUICK, mode="advise")
    rig.run_until(lambda: supervisor.advice.list())
    supervisor.advice.apply("1")
    supervisor.close(keep=True)
    supervisor = rig.start()
    assert value_of(disk) == 512
    assert supervisor.advice.get("1")["state"] == "applied"
    assert [lease["holder"] for lease in supervisor.leases()] == ["the admin"]
    supervisor.advice.undo("1")
    assert value_of(disk) == before
    rig.run_until(lambda: supervisor.advice.list()[0]["state"] == "open")
    number = supervisor.advice.list()[0]["id"]
    supervisor.advice.apply(number)
    supervisor.close(keep=False)
    assert value_of(disk) == before
    assert rig.start().advice.get(number)["state"] == "undone"


def test_somebody_else_sets_what_advice_had_set(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    rig.load(rig.module(), disk, *QUICK, mode="advise")
    rig.run_until(lambda: supervisor.advice.list())
    supervisor.advice.apply("1")
    knob = Path(f"/sys/block/{disk}/queue/read_ahead_kb")
    knob.write_text("64")
    rig.run_until(lambda: supervisor.advice.get("1")["state"] == "undone")
    assert "somebody else" in supervisor.advice.get("1")["remark"]
    supervisor.close(keep=False)
    assert value_of(disk) == 64
    knob.write_text(str(before))
