# SPDX-License-Identifier: Apache-2.0
"""Many instances at once: each on its own, arbitrated, handed from one owner to the next."""

import os
import signal
import threading
from pathlib import Path

import pytest
from runtime.supervised import QUICK, Rig, alive, stirred, value_of
from sample_module import MANIFEST, RECOMMENDER

from kmind.agent.types import Mode
from kmind.errors import KmindError, UsageError
from kmind.extension.discovery.conf import ModuleConf
from kmind.runtime.supervisor import instances as module_under_test

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


def test_loaded_shown_and_unloaded(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    plan = supervisor.requests.load(
        rig.module(), disk, {"value": "256"}, mode=Mode.AUTO, dry_run=True
    )
    assert plan["name"] == f"sample@{disk}"
    assert plan["params"]["value"] == 256
    assert "block.read_ahead_kb" in plan["knobs"]
    assert supervisor.status() == []
    name = rig.load(str(rig.folder / "sample/sample"), disk, "value=256", *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    assert value_of(disk) == 256
    (status,) = supervisor.status(name)
    assert (status["name"], status["mode"], status["state"]) == (name, "auto", "running")
    assert status["holds"][0]["value"] == 256
    assert status["leases"][0]["knob"] == "block.read_ahead_kb"
    assert status["leases"][0]["target"] == disk
    assert alive(status["extension"]["pid"])
    assert name in (rig.root / "stats").read_text()
    with pytest.raises(KmindError, match="is loaded already"):
        rig.load(str(rig.folder / "sample/sample"), disk)
    summary = supervisor.requests.unload(name)
    assert summary["restored"]
    assert summary["changes"][0]["values"] == [256]
    assert value_of(disk) == before
    assert not alive(status["extension"]["pid"])
    assert supervisor.status() == []
    assert supervisor.core.instances() == []
    with pytest.raises(UsageError, match="there is no instance"):
        supervisor.requests.unload(name)


def test_one_module_on_several_disks(rig: Rig, disk: str, second: str) -> None:
    rig.start()
    names = [rig.load("slowio", each) for each in (disk, second)]
    assert names == [f"slowio@{disk}", f"slowio@{second}"]


def test_what_cannot_be_loaded_leaves_nothing(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    broken = rig.module("broken", "import no_such_package\n")
    with pytest.raises(KmindError, match="its code raised an exception"):
        rig.load(broken, disk)
    with pytest.raises(UsageError, match="no parameter"):
        rig.load(broken, disk, "nonsense=1")
    with pytest.raises(UsageError, match="works on a block target"):
        rig.load(broken, "system")
    assert supervisor.core.instances() == []
    assert supervisor.members == {}
    assert not list((rig.root / "agents").glob("*"))
    assert not list((rig.folder / "run").rglob("*@*"))


def test_dependencies_come_first_and_conflicts_are_refused(rig: Rig, disk: str) -> None:
    rig.start()
    conflicting = MANIFEST.replace("[agent]", 'conflicts = ["sample"]\n\n[agent]', 1)
    enemy = rig.module("enemy", manifest=conflicting)
    needy = rig.module(
        "needy", manifest=MANIFEST.replace("[agent]", 'depends = ["slowio"]\n\n[agent]', 1)
    )
    rig.load(rig.module(), disk, mode="observe")
    with pytest.raises(KmindError, match="are in conflict"):
        rig.load(enemy, disk, mode="observe")
    name = rig.load(needy, disk, mode="observe")
    assert rig.supervisor
    assert list(rig.supervisor.members)[1:] == [f"slowio@{disk}", name]
    with pytest.raises(KmindError, match="depends on slowio"):
        rig.supervisor.requests.unload(f"slowio@{disk}")


def test_one_that_fails_fails_alone(rig: Rig, disk: str, second: str) -> None:
    supervisor = rig.start()
    good = rig.load(rig.module(), disk, "value=256", "hold_s=1", "every_s=0.1")
    bad = rig.load(
        rig.module(
            "bad",
            RECOMMENDER.replace(
                "    def on_verdict(self, verdict):\n",
                "    def on_verdict(self, verdict):\n"
                '        if len(self.seen) > 5: raise RuntimeError("on purpose")\n',
            ),
        ),
        second,
        "every_s=0.1",
    )
    with stirred(second):
        rig.run_until(lambda: supervisor.members[bad].instance.failed)
    assert "its code raised an exception" in supervisor.status(bad)[0]["failed"]
    assert supervisor.status(bad)[0]["state"] == "failed"
    assert supervisor.status(bad)[0]["leases"] == []
    assert value_of(second) != 512
    rig.events.clear()
    rig.run_for(2)  # longer than the hold: it is renewed
    assert not rig.of("undone", good)
    assert value_of(disk) == 256
    assert supervisor.requests.unload(bad)["restored"]


def test_an_error_of_our_own_in_one_is_an_emergency_of_that_one(
    rig: Rig, disk: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = rig.start()
    good = rig.load(rig.module(), disk, *QUICK)
    bad = rig.load(rig.module("bad"), second, *QUICK)
    rig.run_until(lambda: rig.of("applied", good) and rig.of("applied", bad))

    def explode() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(supervisor.members[bad].instance.checks, "poll_knobs", explode)
    rig.run_until(lambda: supervisor.members[bad].instance.failed)
    assert "internal error: ZeroDivisionError" in supervisor.members[bad].instance.failed
    assert value_of(second) != 512
    assert value_of(disk) == 512
    assert not supervisor.members[good].instance.failed


def test_a_limit_exceeded_is_an_emergency_of_that_one(rig: Rig, disk: str, second: str) -> None:
    supervisor = rig.start()
    good = rig.load(rig.module(), disk, *QUICK)
    greedy = rig.load(
        rig.module(
            "greedy",
            RECOMMENDER.replace(
                "        self.seen.append(verdict.verdict)",
                "        self.seen.append(bytearray(b'x' * (16 << 20)))",
            ),
            MANIFEST + "\n[limits]\nmemory_mib = 96\n",
        ),
        second,
        "every_s=0.05",
    )
    with stirred(second):
        rig.run_until(lambda: supervisor.members[greedy].instance.failed)
    assert "memory" in supervisor.members[greedy].instance.failed
    assert value_of(second) != 512
    assert not supervisor.members[good].instance.failed
    assert value_of(disk) == 512


def test_modes(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    assert supervisor.requests.set_mode(name, Mode.OBSERVE)["before"] == "auto"
    assert value_of(disk) == before
    assert supervisor.status(name)[0]["leases"] == []
    rig.run_until(lambda: rig.of("verdict")[-1]["verdict"] == "shadowed")
    supervisor.requests.set_mode(name, Mode.AUTO)
    rig.events.clear()
    rig.run_until(lambda: rig.of("applied"))
    supervisor.requests.set_mode(name, Mode.EMERGENCY)
    assert value_of(disk) == before
    with pytest.raises(KmindError, match=r"is in emergency.*kmind reload"):
        supervisor.requests.set_mode(name, Mode.AUTO)


def test_reload(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: len(rig.of("verdict")) > 20)
    pid = supervisor.status(name)[0]["extension"]["pid"]
    last = max(event["id"] for event in rig.of("verdict"))
    rig.events.clear()
    result = supervisor.requests.reload(name)
    assert result["generation"] == 2
    assert result["pid"] != pid
    assert not alive(pid)
    rig.run_until(lambda: len(rig.of("verdict")) > 5)
    assert {event["verdict"] for event in rig.of("verdict")} == {"renewed"}
    assert min(event["id"] for event in rig.of("verdict")) > last
    assert not rig.of("undone")  # it stood all the time
    # Also out of an emergency, and again and again.
    supervisor.requests.set_mode(name, Mode.EMERGENCY)
    rig.events.clear()
    for generation in (3, 4):
        assert supervisor.requests.reload(name)["generation"] == generation
    rig.run_until(lambda: rig.of("applied"))
    assert supervisor.status(name)[0]["state"] == "running"


def test_reload_of_code_that_does_not_start(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    path = Path(rig.module())
    name = rig.load(str(path), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    good = (path / "extension.py").read_text()
    (path / "extension.py").write_text("import no_such_package\n")
    with pytest.raises(KmindError, match="its code raised"):
        supervisor.requests.reload(name)
    assert supervisor.status(name)[0]["state"] == "failed"
    assert value_of(disk) == before
    (path / "extension.py").write_text(good)
    rig.events.clear()
    supervisor.requests.reload(name)
    rig.run_until(lambda: rig.of("applied"))


def test_reload_of_a_module_that_changed_its_class(rig: Rig, disk: str) -> None:
    """It is refused, and what runs goes on."""
    supervisor = rig.start()
    path = Path(rig.module())
    name = rig.load(str(path), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    before = supervisor.status(name)[0]
    (path / "module.toml").write_text(MANIFEST.replace('"tuner"', '"predictor"'))
    with pytest.raises(KmindError, match=f"{name} is a tuner, and the module sample is a pred"):
        supervisor.requests.reload(name)
    after = supervisor.status(name)[0]
    assert (after["class"], after["state"]) == ("tuner", "running")
    assert after["generation"] == before["generation"]
    assert after["extension"]["pid"] == before["extension"]["pid"]
    assert value_of(disk) == 512


def test_an_emergency_is_seen_though_its_word_is_lost(rig: Rig, disk: str) -> None:
    """By the mode that the agent is in, which is compared each second."""
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    member = supervisor.members[name]
    member.agent.set_mode(Mode.EMERGENCY)
    supervisor.core.actions.poll(0)  # as if the ring had had no room for it
    rig.run_until(lambda: member.instance.failed)
    assert value_of(disk) == before
    assert supervisor.status(name)[0]["mode"] == "emergency"


def test_calls_from_other_threads(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    path = rig.module()
    found: list[object] = []

    def ask() -> None:
        name = supervisor.submit(lambda: rig.load(path, disk, mode="observe")).result(20)
        found.append(supervisor.submit(lambda: supervisor.status(name)[0]["name"]).result(20))
        with pytest.raises(UsageError):
            supervisor.submit(lambda: supervisor.status("no@body")).result(20)
        found.append(
            supervisor.submit(lambda: supervisor.requests.unload(name)["restored"]).result(20)
        )

    thread = threading.Thread(target=ask)
    thread.start()
    rig.run_until(lambda: len(found) == 2)
    thread.join()
    assert found == [f"sample@{disk}", True]
    supervisor.close(keep=False)
    with pytest.raises(KmindError, match="is stopping"):
        supervisor.submit(lambda: None).result(1)


def test_wrong_file_of_modules_d_is_told_and_stops_nothing(rig: Rig) -> None:
    folder = rig.folder / "modules.d"
    folder.mkdir()
    (folder / "10-wrong.conf").write_text("optoins m x=1\n")
    (folder / ".#20-good.conf").symlink_to("admin@host.example.4242:1700000000")
    (folder / "20-good.conf").write_text("autoload dirty system mode=observe\n")
    supervisor = rig.make(conf=ModuleConf.load([folder], strict=False))
    supervisor.start()
    assert supervisor.names() == ["dirty@system"]
    told = " ".join(each["message"] for each in rig.of("log"))
    assert "10-wrong.conf:1: unknown word 'optoins'" in told
    assert ".#20-good.conf ignored" in told


def test_one_look_serves_all_who_read_in_one_round(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, mode="observe")
    reads = [supervisor.submit(lambda: supervisor.status(name)[0], reads=True) for _ in range(64)]
    moved = supervisor.submit(lambda: supervisor.requests.set_mode(name, Mode.ADVISE))
    later = supervisor.submit(lambda: supervisor.status()[0], reads=True)
    rig.run_until(later.done)
    rows = [each.result(0) for each in reads]
    assert len({id(row) for row in rows}) < 16  # one a round, and each round answers some
    assert {row["mode"] for row in rows} == {"observe"}
    assert moved.result(0)["before"] == "observe"
    assert later.result(0)["mode"] == "advise"
    assert supervisor.turns.describe()["turns"] > 0


def test_the_longest_silence_is_said(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    os.kill(supervisor.status(name)[0]["extension"]["pid"], signal.SIGSTOP)
    rig.run_until(lambda: supervisor.members[name].instance.failed)
    seconds = f"{module_under_test.DEADLINE_S:g}"
    assert f"was silent for {seconds} s" in supervisor.members[name].instance.failed
    assert value_of(disk) != 512
