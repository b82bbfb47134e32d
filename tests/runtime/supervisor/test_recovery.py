# SPDX-License-Identifier: Apache-2.0
"""Instances handed from one owner to the next: by a restart, by a kill, or not at all."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from runtime.supervised import QUICK, Daemon, Rig, alive, stirred, value_of
from sample_module import MANIFEST, RECOMMENDER

from kmind.runtime.instance.instance import Instance
from kmind.runtime.sandbox.cgroup.cgroup import list_cgroups

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

KILLS = 30


def test_handed_from_one_to_the_next(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, "hold_s=2", "every_s=0.3")
    rig.run_until(lambda: rig.of("applied"))
    first = supervisor.status(name)[0]
    change = supervisor.journal.open_changes()[0]
    supervisor.close(keep=True)
    assert alive(first["extension"]["pid"])
    assert value_of(disk) == 512
    assert name in (rig.root / "stats").read_text()
    rig.events.clear()
    supervisor = rig.start()
    (second,) = supervisor.status()
    for same in ("name", "slot", "generation", "params", "mode", "extension", "started"):
        if same == "extension":
            assert second[same]["pid"] == first[same]["pid"]
        else:
            assert second[same] == first[same]
    assert rig.of("start")[0]["how"] == "taken over"
    assert rig.of("start")[0]["knobs"] == {"block.read_ahead_kb": before}
    assert supervisor.journal.open_changes()[0].id == change.id
    rig.run_for(3)  # longer than the hold: it is renewed, by the same extension
    assert not rig.of("undone")
    assert not rig.of("applied")
    assert supervisor.status(name)[0]["account"]["verdict_replayed"] == 0
    summary = supervisor.requests.unload(name)
    assert summary["restored"]
    assert summary["changes"][0]["baseline"] == value_of(disk) == before


def test_a_bug_in_taking_over_costs_one_instance(
    rig: Rig, disk: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = value_of(second)
    supervisor = rig.start()
    good = rig.load(rig.module(), disk, *QUICK)
    bad = rig.load(rig.module("bad"), second, *QUICK)
    rig.run_until(lambda: rig.of("applied", good) and rig.of("applied", bad))
    supervisor.close(keep=True)
    tell = Instance._work

    def explode(self: Instance, how: str) -> None:
        if self.name == bad:
            raise ZeroDivisionError("a bug")
        tell(self, how)

    monkeypatch.setattr(Instance, "_work", explode)
    supervisor = rig.start()
    assert list(supervisor.members) == [good]
    assert value_of(second) == before
    assert value_of(disk) == 512
    assert [each.name for each in supervisor.core.instances()] == [good]
    assert any("ZeroDivisionError" in event["message"] for event in rig.of("log"))


def test_a_module_that_changed_its_class_is_not_taken_over(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    path = Path(rig.module())
    name = rig.load(str(path), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    pid = supervisor.status(name)[0]["extension"]["pid"]
    supervisor.close(keep=True)
    (path / "module.toml").write_text(MANIFEST.replace('"tuner"', '"predictor"'))
    supervisor = rig.start()
    assert not supervisor.members
    assert not alive(pid)
    assert value_of(disk) == before
    assert any("is a tuner, and the module" in event["message"] for event in rig.of("log"))


def test_a_hold_ends_when_it_was_to_end(rig: Rig, disk: str) -> None:
    once = RECOMMENDER.replace("if self.context.now() < self.at:", "if self.at:")
    supervisor = rig.start()
    rig.load(rig.module(extension=once), disk, "hold_s=3")
    rig.run_until(lambda: rig.of("applied"))
    at = time.monotonic()
    supervisor.close(keep=True)
    time.sleep(1)
    rig.start()
    rig.run_until(lambda: rig.of("undone"))
    assert 2.5 < time.monotonic() - at < 4.5
    assert rig.of("undone")[0]["why"] == "its hold ended"


def test_what_waited_too_long_is_not_done(rig: Rig, disk: str) -> None:
    restless = RECOMMENDER.replace(
        'self.context.params["value"],', "(256, 512, 1024)[len(self.seen) % 3],"
    )
    supervisor = rig.start()
    rig.load(rig.module("restless", restless), disk, "hold_s=0.5", "every_s=0.05")
    rig.run_until(lambda: rig.of("applied"))
    supervisor.close(keep=True)
    time.sleep(2)
    rig.events.clear()
    supervisor = rig.start()
    late = [event for event in rig.of("failed") if "waited for longer" in event["why"]]
    assert late
    told = rig.of("verdict")
    numbers = [event["id"] for event in told]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # none was lost
    assert {event["id"] for event in late} < set(numbers)
    rig.events.clear()
    rig.run_until(lambda: rig.of("applied"))


def test_restored_instead_where_that_is_wanted(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    daemon = Daemon(rig.folder, f"{rig.module()} {disk} hold_s=60")
    try:
        pid = daemon.wait_for("start")["extension"]["pid"]
        daemon.wait_for("applied")
    finally:
        daemon.kill()
    assert alive(pid)
    supervisor = rig.start(take_over=False)
    assert supervisor.members == {}
    assert supervisor.core.instances() == []
    assert not alive(pid)
    assert value_of(disk) == before
    assert not list((rig.root / "agents").glob("*"))
    assert rig.of("restored")[0]["value"] == before


def test_the_state_of_a_later_kmind_is_not_gone_on_with(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, "hold_s=60", "every_s=0.3")
    rig.run_until(lambda: rig.of("applied"))
    pid = supervisor.status(name)[0]["extension"]["pid"]
    supervisor.close(keep=True)
    (file,) = (rig.folder / "run/state").glob("*.json")
    file.write_text(file.read_text().replace("kmind.state/1", "kmind.state/99"))
    supervisor = rig.start()
    assert supervisor.members == {}
    assert not alive(pid)
    assert value_of(disk) == before
    assert any("is of a later kmind" in event["message"] for event in rig.of("log"))


def test_an_extension_that_died_meanwhile(rig: Rig, disk: str, second: str) -> None:
    daemon = Daemon(
        rig.folder,
        f"{rig.module('one')} {disk} hold_s=60",
        f"{rig.module('two')} {second} hold_s=60",
    )
    try:
        daemon.wait_for("serving")
        deadline = time.monotonic() + 20
        while sum(event["event"] == "applied" for event in daemon.said()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = {
            e["instance"]: e["extension"]["pid"] for e in daemon.said() if e["event"] == "start"
        }
    finally:
        daemon.kill()
    assert alive(pids[f"one@{disk}"])
    assert value_of(disk) == 512
    os.kill(pids[f"one@{disk}"], signal.SIGKILL)
    supervisor = rig.start()
    assert list(supervisor.members) == [f"two@{second}"]
    assert value_of(disk) != 512
    assert value_of(second) == 512
    assert alive(pids[f"two@{second}"])
    assert [e["knob"] for e in rig.of("restored")] == ["block.read_ahead_kb"]


@pytest.mark.fault
@pytest.mark.slow
def test_killed_again_and_again_under_load(rig: Rig, disk: str, second: str) -> None:
    chance = random.Random(7)
    first = {disk: value_of(disk), second: value_of(second)}
    # One changes its knob all the time; the other holds one value from start to end.
    restless = RECOMMENDER.replace(
        'self.context.params["value"],', "(256, 512, 1024)[len(self.seen) % 3],"
    )
    loads = (
        f"{rig.module('restless', restless)} {disk} hold_s=0.2 every_s=0.01",
        f"{rig.module('steady')} {second} hold_s=60 every_s=0.05",
    )
    pids: dict[str, int] = {}
    taken = kept = 0
    with stirred(second):
        for turn in range(KILLS):
            daemon = Daemon(rig.folder, *loads)
            try:
                daemon.wait_for("serving")
                said = daemon.said()
                for event in said:
                    if event["event"] == "start":
                        name, pid = event["instance"], event["extension"]["pid"]
                        if name in pids:
                            assert (event["how"], pid) == ("taken over", pids[name]), said
                            taken += 1
                        pids[name] = pid
                time.sleep(chance.uniform(0, 0.3))
            finally:
                daemon.kill()
            troubles = [e["message"] for e in daemon.said() if "not taken over" in str(e)]
            assert not troubles, turn
            if turn > 2:
                assert value_of(second) == 512, turn
                kept += 1
            assert value_of(disk) in (first[disk], 256, 512, 1024)
    assert taken >= 2 * (KILLS - 2)
    assert kept
    supervisor = rig.start()
    assert set(supervisor.members) == set(pids)
    for member in supervisor.members.values():
        account = member.instance.account()
        assert account["dropped"] == 0
        assert account["verdict_replayed"] == 0
        assert account["actions_lost"] == 0
    rig.run_for(1)
    assert all(alive(pid) for pid in pids.values())
    supervisor.close(keep=False)
    assert {name: value_of(name) for name in first} == first
    assert not any(alive(pid) for pid in pids.values())


@pytest.mark.fault
@pytest.mark.slow
def test_killed_while_it_loads_leaves_nothing_unowned(rig: Rig, disk: str, second: str) -> None:
    chance = random.Random(11)
    loads = [f"{rig.module('one')} {disk} {' '.join(QUICK)}"]
    loads.append(f"{rig.module('two')} {second} {' '.join(QUICK)}")
    first = {name: value_of(name) for name in (disk, second)}
    whole = 0
    for turn in range(KILLS):
        daemon = Daemon(rig.folder, *loads)
        time.sleep(chance.uniform(0, 1.5))
        daemon.kill()
        supervisor = rig.start()
        members = set(supervisor.members)
        whole += len(members)
        assert {each.name for each in supervisor.core.instances()} == members, turn
        assert {path.name for path in (rig.root / "agents").glob("*")} == members, turn
        assert {path.name for path in (rig.root / "instances").glob("*")} == members, turn
        assert {path.stem for path in (rig.folder / "run/state").glob("*")} == members, turn
        groups = {name for name in list_cgroups() if name.startswith(rig.cgroups)}
        assert groups == {rig.cgroups + name for name in members}, turn
        supervisor.close(keep=False)
        assert (value_of(disk), value_of(second)) == (first[disk], first[second])
    assert 0 < whole < 2 * KILLS
