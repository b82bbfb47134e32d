# SPDX-License-Identifier: Apache-2.0
"""Knobs that several instances want."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from runtime.supervised import OTHER, QUICK, Rig, value_of
from runtime.supervisor.ranked import ranked
from sample_module import RECOMMENDER

from kmind.abi import layout
from kmind.agent.types import Mode
from kmind.knobs import Target, get_knob

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


def test_two_fight_over_one_knob(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    weak = rig.load(rig.module("weak", manifest=ranked(50)), disk, "value=256", *QUICK)
    rig.run_until(lambda: rig.of("applied", weak))
    strong = rig.load(rig.module("strong", OTHER, ranked(150)), disk, "value=1024", *QUICK)
    rig.run_until(lambda: rig.of("applied", strong))
    assert value_of(disk) == 1024
    # What the weak one had set was put back first: the baseline is still the first value.
    assert rig.of("applied", strong)[0]["old"] == before
    yielded = rig.of("yielded", weak)[0]
    assert f"goes to {strong}" in yielded["message"]
    assert yielded["value"] == before
    rig.run_until(lambda: [e for e in rig.of("verdict", weak) if e["verdict"] == "lease"])
    refused = next(e for e in rig.of("verdict", weak) if e["verdict"] == "lease")
    assert refused["holder"] == strong
    rig.run_for(1)
    assert value_of(disk) == 1024
    assert [len(each["leases"]) for each in supervisor.status()] == [0, 1]
    # The strong one goes, and the weak one gets its turn.
    rig.events.clear()
    assert supervisor.requests.unload(strong)["restored"]
    rig.run_until(lambda: rig.of("applied", weak))
    assert rig.of("applied", weak)[0]["old"] == before
    assert supervisor.requests.unload(weak)["changes"][0]["now"] == before


def test_two_fight_over_a_sysctl_and_the_gate_follows(rig: Rig) -> None:
    knob = Path("/proc/sys/vm/page_lock_unfairness")
    before = knob.read_text()
    manifest = ranked(50).replace("block.read_ahead_kb", "vm.page_lock_unfairness")
    manifest = manifest.replace('kind = "block"', 'kind = "system"')
    code = RECOMMENDER.replace("block.read_ahead_kb", "vm.page_lock_unfairness")
    supervisor = rig.start()
    weak = rig.load(rig.module("weak", code, manifest), "system", "value=11", "every_s=0.1")
    rig.run_until(lambda: rig.of("applied", weak))
    higher = manifest.replace("priority = 50", "priority = 150")
    strong = rig.load(rig.module("strong", code, higher), "system", "value=22", "every_s=0.1")
    rig.run_until(lambda: rig.of("applied", strong))
    assert rig.of("applied", strong)[0]["old"] == int(before)
    assert knob.read_text() == "22\n"
    # The gate goes on with the next owner, and so does what it lets through.
    supervisor.close(keep=True)
    with contextlib.suppress(PermissionError):
        knob.write_text("33")  # this process is the owner, and nobody approved that
    assert knob.read_text() == "22\n"
    supervisor = rig.start()
    rig.events.clear()
    rig.run_for(2.5)
    assert not rig.of("undone")
    assert not rig.of("failed")
    assert knob.read_text() == "22\n"
    supervisor.requests.unload(strong)
    rig.run_until(lambda: rig.of("applied", weak))
    assert knob.read_text() == "11\n"
    # What somebody else writes is noticed at once, and left.
    at = time.monotonic()
    subprocess.run(["sh", "-c", f"echo 7 > {knob}"], check=True)
    try:
        rig.run_until(lambda: rig.of("yielded", weak))
        assert time.monotonic() - at < 0.8
        assert supervisor.requests.unload(weak)["restored"]
        assert knob.read_text() == "7\n"
    finally:
        knob.write_text(before)


def test_others_learn_at_once_what_was_set(
    rig: Rig, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their agents judge steps and rules by it; they do not wait for a look of their own."""
    before = value_of(disk)
    supervisor = rig.start()
    watcher = rig.load(rig.module("watcher"), disk, "every_s=1000", mode="observe")
    monkeypatch.setattr(supervisor.members[watcher].instance.checks, "poll_knobs", lambda: None)
    setter = rig.load(rig.module("setter"), disk, "value=256", *QUICK)
    agent = supervisor.members[watcher].agent
    knob, target = get_knob("block.read_ahead_kb").id, Target.block(disk).id
    mark = ~(target << 32 | knob) & (1 << 64) - 1

    def current() -> int:
        grants = agent._generation.maps["km_grants"]
        rows = [
            np.frombuffer(grants.lookup(place.to_bytes(4, "little")) or b"", layout.GRANT)[0]
            for place in range(layout.LIMIT["GRANTS"])
        ]
        (row,) = [each for each in rows if int(each["key"]) == mark]
        return int(row["current"])

    assert current() == before
    rig.run_until(lambda: rig.of("applied", setter))
    assert current() == 256
    supervisor.requests.unload(setter)
    assert current() == before
    # What the admin sets by advice is told, too.
    adviser = rig.load(rig.module("adviser"), disk, "value=64", *QUICK, mode="advise")
    rig.run_until(lambda: supervisor.advice.list())
    supervisor.requests.unload(adviser)
    supervisor.advice.apply("1")
    assert current() == 64
    supervisor.advice.undo("1")
    assert current() == before


def test_equals_do_not_take_from_each_other(rig: Rig, disk: str) -> None:
    rig.start()
    first = rig.load(rig.module("first"), disk, "value=256", *QUICK)
    rig.run_until(lambda: rig.of("applied", first))
    other = rig.load(rig.module("other"), disk, "value=1024", *QUICK)
    rig.run_until(lambda: rig.of("verdict", other))
    rig.run_for(1)
    assert {e["verdict"] for e in rig.of("verdict", other)} == {"lease"}
    assert {e["holder"] for e in rig.of("verdict", other)} == {first}
    assert value_of(disk) == 256
    # One that fails gives its lease up at once.
    assert rig.supervisor
    rig.supervisor.requests.set_mode(first, Mode.EMERGENCY)
    rig.run_until(lambda: rig.of("applied", other))


def test_who_dies_holding_a_lease_holds_it_no_longer(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    first = rig.load(rig.module("first"), disk, "value=256", "hold_s=600")
    rig.run_until(lambda: rig.of("applied", first))
    other = rig.load(rig.module("other"), disk, "value=1024", *QUICK)
    os.kill(supervisor.members[first].instance.extension.current.pid, signal.SIGKILL)
    rig.run_until(lambda: rig.of("applied", other))
    assert value_of(disk) == 1024
    assert [lease["holder"] for lease in supervisor.leases()] == [other]
