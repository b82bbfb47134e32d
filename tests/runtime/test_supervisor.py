# SPDX-License-Identifier: Apache-2.0
"""Many instances at once: each on its own, arbitrated, handed from one owner to the next."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime.supervised import Daemon, Rig, stirred, value_of
from sample_module import MANIFEST, RECOMMENDER, loop_disk

from kmind.agent._base import Mode
from kmind.errors import KmindError, UsageError
from kmind.runtime import supervisor as module_under_test
from kmind.runtime.cgroup import list_cgroups
from kmind.runtime.instance import Instance

pytestmark = pytest.mark.kernel("libbpf", "btf", "arena", "bpf_timer", "tp_btf", "tp_filemap")

KILLS = 30
QUICK = ("hold_s=30", "every_s=0.05")
OTHER = RECOMMENDER.replace("The test says so.", "The other says so.")


def ranked(priority: int) -> str:
    """The sample's manifest, with a priority for its knob."""
    return MANIFEST.replace(
        'name = "block.read_ahead_kb"\n', f'name = "block.read_ahead_kb"\npriority = {priority}\n'
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with loop_disk(tmp_path) as name:
        yield name


@pytest.fixture
def second(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "second"
    folder.mkdir()
    with loop_disk(folder) as name:
        yield name


@pytest.fixture
def rig(tmp_path: Path, disk: str) -> Iterator[Rig]:
    made = Rig(tmp_path)
    before = value_of(disk)
    try:
        with stirred(disk):
            yield made
    finally:
        made.close()
        assert value_of(disk) == before
        assert not made.root.exists()
        assert not list((tmp_path / "run").rglob("*@*"))
        assert not [name for name in list_cgroups() if name.startswith(made.cgroups)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_loaded_shown_and_unloaded(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    plan = supervisor.load(rig.module(), disk, ["value=256"], mode=Mode.AUTO, dry_run=True)
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
    summary = supervisor.unload(name)
    assert summary["restored"]
    assert summary["changes"][0]["values"] == [256]
    assert value_of(disk) == before
    assert not alive(status["extension"]["pid"])
    assert supervisor.status() == []
    assert supervisor.core.instances() == []
    with pytest.raises(UsageError, match="there is no instance"):
        supervisor.unload(name)


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
        rig.supervisor.unload(f"slowio@{disk}")


def test_one_that_fails_fails_alone(rig: Rig, disk: str, second: str) -> None:
    supervisor = rig.start()
    good = rig.load(rig.module(), disk, "value=256", "hold_s=2", "every_s=0.1")
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
    rig.run_until(lambda: supervisor.members[bad].instance.failed)
    assert "its code raised an exception" in supervisor.status(bad)[0]["failed"]
    assert supervisor.status(bad)[0]["state"] == "failed"
    assert supervisor.status(bad)[0]["leases"] == []
    assert value_of(second) != 512
    rig.events.clear()
    rig.run_for(3)  # longer than the hold: it is renewed
    assert not rig.of("undone", good)
    assert value_of(disk) == 256
    assert supervisor.unload(bad)["restored"]


def test_an_error_of_our_own_in_one_is_an_emergency_of_that_one(
    rig: Rig, disk: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = rig.start()
    good = rig.load(rig.module(), disk, *QUICK)
    bad = rig.load(rig.module("bad"), second, *QUICK)
    rig.run_until(lambda: rig.of("applied", good) and rig.of("applied", bad))

    def explode() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(supervisor.members[bad].instance, "look", explode)
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
    rig.run_until(lambda: supervisor.members[greedy].instance.failed)
    assert "memory" in supervisor.members[greedy].instance.failed
    assert value_of(second) != 512
    assert not supervisor.members[good].instance.failed
    assert value_of(disk) == 512


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
    assert supervisor.unload(strong)["restored"]
    rig.run_until(lambda: rig.of("applied", weak))
    assert rig.of("applied", weak)[0]["old"] == before
    assert supervisor.unload(weak)["changes"][0]["now"] == before


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
    supervisor.unload(strong)
    rig.run_until(lambda: rig.of("applied", weak))
    assert knob.read_text() == "11\n"
    # What somebody else writes is noticed at once, and left.
    at = time.monotonic()
    subprocess.run(["sh", "-c", f"echo 7 > {knob}"], check=True)
    try:
        rig.run_until(lambda: rig.of("yielded", weak))
        assert time.monotonic() - at < 0.8
        assert supervisor.unload(weak)["restored"]
        assert knob.read_text() == "7\n"
    finally:
        knob.write_text(before)


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
    rig.supervisor.set_mode(first, Mode.EMERGENCY)
    rig.run_until(lambda: rig.of("applied", other))


def test_who_dies_holding_a_lease_holds_it_no_longer(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    first = rig.load(rig.module("first"), disk, "value=256", "hold_s=600")
    rig.run_until(lambda: rig.of("applied", first))
    other = rig.load(rig.module("other"), disk, "value=1024", *QUICK)
    os.kill(supervisor.members[first].instance.extension_pid, signal.SIGKILL)
    rig.run_until(lambda: rig.of("applied", other))
    assert value_of(disk) == 1024
    assert [lease["holder"] for lease in supervisor.leases()] == [other]


def test_modes(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    assert supervisor.set_mode(name, Mode.OBSERVE)["before"] == "auto"
    assert value_of(disk) == before
    assert supervisor.status(name)[0]["leases"] == []
    rig.run_until(lambda: rig.of("verdict")[-1]["verdict"] == "shadowed")
    supervisor.set_mode(name, Mode.AUTO)
    rig.events.clear()
    rig.run_until(lambda: rig.of("applied"))
    supervisor.set_mode(name, Mode.EMERGENCY)
    assert value_of(disk) == before
    with pytest.raises(KmindError, match=r"is in emergency.*kmind reload"):
        supervisor.set_mode(name, Mode.AUTO)


def test_reload(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: len(rig.of("verdict")) > 20)
    pid = supervisor.status(name)[0]["extension"]["pid"]
    last = max(event["id"] for event in rig.of("verdict"))
    rig.events.clear()
    result = supervisor.reload(name)
    assert result["generation"] == 2
    assert result["pid"] != pid
    assert not alive(pid)
    rig.run_until(lambda: len(rig.of("verdict")) > 5)
    assert {event["verdict"] for event in rig.of("verdict")} == {"renewed"}
    assert min(event["id"] for event in rig.of("verdict")) > last
    assert not rig.of("undone")  # it stood all the time
    # Also out of an emergency, and again and again.
    supervisor.set_mode(name, Mode.EMERGENCY)
    rig.events.clear()
    for generation in (3, 4):
        assert supervisor.reload(name)["generation"] == generation
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
        supervisor.reload(name)
    assert supervisor.status(name)[0]["state"] == "failed"
    assert value_of(disk) == before
    (path / "extension.py").write_text(good)
    rig.events.clear()
    supervisor.reload(name)
    rig.run_until(lambda: rig.of("applied"))


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


def test_calls_from_other_threads(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    path = rig.module()
    found: list[object] = []

    def ask() -> None:
        name = supervisor.submit(lambda: rig.load(path, disk, mode="observe")).result(20)
        found.append(supervisor.submit(lambda: supervisor.status(name)[0]["name"]).result(20))
        with pytest.raises(UsageError):
            supervisor.submit(lambda: supervisor.status("no@body")).result(20)
        found.append(supervisor.submit(lambda: supervisor.unload(name)["restored"]).result(20))

    thread = threading.Thread(target=ask)
    thread.start()
    rig.run_until(lambda: len(found) == 2)
    thread.join()
    assert found == [f"sample@{disk}", True]
    supervisor.close(keep=False)
    with pytest.raises(KmindError, match="is stopping"):
        supervisor.submit(lambda: None).result(1)


def test_a_subscriber_that_fails_is_told_nothing_more(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    told = 0

    def explode(event: object) -> None:
        nonlocal told
        told += 1
        raise ValueError("on purpose")

    supervisor.subscribe(explode)
    rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    assert told == 1


def test_handed_from_one_to_the_next(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, "hold_s=5", "every_s=0.5")
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
    rig.run_for(6)  # longer than the hold: it is renewed, by the same extension
    assert not rig.of("undone")
    assert not rig.of("applied")
    assert supervisor.status(name)[0]["account"]["verdict_replayed"] == 0
    summary = supervisor.unload(name)
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
    tell = Instance._announce

    def explode(self: Instance, how: str) -> None:
        if self.name == bad:
            raise ZeroDivisionError("a bug")
        tell(self, how)

    monkeypatch.setattr(Instance, "_announce", explode)
    supervisor = rig.start()
    assert list(supervisor.members) == [good]
    assert value_of(second) == before
    assert value_of(disk) == 512
    assert [each.name for each in supervisor.core.instances()] == [good]
    assert any("ZeroDivisionError" in event["message"] for event in rig.of("log"))


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
        time.sleep(chance.uniform(0.3, 2.5))
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


def test_the_longest_silence_is_said(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    name = rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    os.kill(supervisor.status(name)[0]["extension"]["pid"], signal.SIGSTOP)
    rig.run_until(lambda: supervisor.members[name].instance.failed)
    seconds = f"{module_under_test.DEADLINE_S:g}"
    assert f"no sign of life for {seconds} s" in supervisor.members[name].instance.failed
    assert value_of(disk) != 512
