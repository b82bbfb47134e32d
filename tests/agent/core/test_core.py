# SPDX-License-Identifier: Apache-2.0
"""The core object on the real kernel: instances, pins, statistics, what reaches whom."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from agents import recommendation, write_slot
from members import member, recommend

from kmind.abi import layout
from kmind.abi.btf import Btf
from kmind.abi.btf import Kind as BtfKind
from kmind.agent.core.core import Core
from kmind.agent.types import Grant, Kind, Mode, Verdict
from kmind.errors import KmindError, NotSupportedError

pytestmark = pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall", "iter_task")


# Instances


def test_instances_come_and_go(core: Core) -> None:
    assert core.register("one@vda", "one", "tuner", 10, 20) == 1
    assert core.register("two@vda", "two", "detector") == 2
    assert core.classes() == {"tuner": 1, "detector": 1}
    with pytest.raises(KmindError, match=r"an instance one@vda already; unload it"):
        core.register("one@vda", "other", "tuner")
    core.set_process(1, 30, 40)
    first = core.instance(1)
    assert first is not None
    assert (first.name, first.module, first.class_) == ("one@vda", "one", "tuner")
    assert (first.pid, first.uid, first.held, first.mode) == (30, 40, 0, "")
    assert 0 < first.started_ns <= time.monotonic_ns()
    core.unregister(1)
    core.unregister(1)
    assert [each.slot for each in core.instances()] == [2]
    assert core.classes() == {"tuner": 0, "detector": 1}
    assert core.register("three@vda", "three", "reporter") == 1


def test_there_are_63_slots(core: Core) -> None:
    slots = [core.register(f"i{n}", "m", "tuner") for n in range(63)]
    assert slots == list(range(1, 64))
    with pytest.raises(KmindError, match="no room for another: 63 instances"):
        core.register("another", "m", "tuner")


@pytest.mark.parametrize("name", ["", "x" * 48, "ä" * 24, "a\0b"])
def test_a_name_that_cannot_be_kept(core: Core, name: str) -> None:
    with pytest.raises(KmindError, match="cannot be kept; give 1 to 47 bytes"):
        core.register(name, "m", "tuner")
    assert core.instances() == []


# Pins


def test_a_pinned_core_is_found_again(root: Path) -> None:
    first = Core.open(root)
    slot = first.register("one@vda", "one", "tuner")
    assert first.leases.acquire(slot, 5, 6, hold_s=60)
    first.close()
    second = Core.open(root)
    assert [each.name for each in second.instances()] == ["one@vda"]
    assert [each[:3] for each in second.leases.all()] == [(5, 6, slot)]
    shown = subprocess.run(["cat", root / "stats"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == second.stats().splitlines()
    second.remove()
    assert not root.exists()
    second.close()


def test_a_core_that_was_never_finished_is_made_anew(root: Path) -> None:
    Core.open(root).close()
    (root / "core" / "owner").unlink()
    (root / "core" / "leases").unlink()
    with Core.open(root) as core:
        assert core.register("one@vda", "one", "tuner") == 1
    Core.open(root).remove()


def test_a_core_of_another_abi_is_left_alone(root: Path) -> None:
    with Core.open(root) as core:
        words = np.zeros((), layout.OWNER)
        words["abi"] = 77
        core._map("owner").update(bytes(4), words.tobytes())
    with pytest.raises(KmindError, match=r"of ABI 77, and this kmind's of \d+; unload"):
        Core.open(root)
    assert (root / "core" / "owner").exists()


def test_no_bpf_file_system(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="mount -t bpf -o mode=700 bpf /sys/fs/bpf"):
        Core.open(tmp_path / "kmind")


def test_a_private_core_has_no_pins(core: Core, bare: Path, tmp_path: Path) -> None:
    agent = member(core, bare, "one@vda")
    with pytest.raises(KmindError, match="only an agent of a pinned core"):
        agent.pin(tmp_path / "x")
    with pytest.raises(KmindError, match="no pins"):
        core.folder("one@vda")
    agent.close()


# Statistics


def columns(text: str) -> dict[str, dict[str, str]]:
    """Parse ``stats``: by name of the instance, then by column."""
    head, *lines = (line.split() for line in text.splitlines())
    return {line[1]: dict(zip(head, line, strict=True)) for line in lines}


def test_stats_show_each_instance(root: Path, bare: Path) -> None:
    core = Core.open(root)
    assert columns(core.stats()) == {}
    agent = member(core, bare, "one.two@vda")
    core.register("quiet@vda", "quiet", "detector", pid=os.getpid(), uid=os.getuid())
    agent.pin(core.folder("one.two@vda"))
    agent.start()
    recommend(agent, 1, 5)
    recommend(agent, 2, 101)
    agent.work(pushes=70, count=1, admits=998)
    agent.notify(Kind.APPLIED, 1, 5)
    agent.notify(Kind.UNDONE, 1, 0)
    deadline = time.monotonic() + 60
    while columns(core.stats())["one.two@vda"]["undone"] != "1":
        assert time.monotonic() < deadline
    row = columns(core.stats())["one.two@vda"]
    assert (row["slot"], row["class"], row["mode"], row["gen"]) == ("1", "tuner", "auto", "1")
    assert (row["approved"], row["refused"], row["held"], row["applied"]) == ("1", "1", "1", "1")
    assert (row["hooks"], row["dropped"]) == ("1000", str(agent.account()["dropped"]))
    assert 0 < int(row["hook_ns"]) < 1000 * 100_000
    assert int(row["beat_ms"]) < 60_000
    quiet = columns(core.stats())["quiet@vda"]
    used_kib = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    if Btf.kernel().find("bpf_task_from_pid", BtfKind.FUNC) is None:
        assert (quiet["rss_kib"], quiet["cpu_ms"]) == ("-", "-")
    else:
        assert abs(int(quiet["rss_kib"]) - used_kib) < 0.2 * used_kib
        assert abs(int(quiet["cpu_ms"]) - time.process_time() * 1000) < 500
    account = agent.account()
    text = (root / "instances" / "one:two@vda").read_text()
    shown = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert shown["name"] == "one.two@vda"
    for name, count in account.items():
        if name not in ("ticks", "heartbeat_ns", "windows"):
            assert shown[name] == str(count), name
    agent.close()
    core.unregister(1)
    core.unregister(2)
    core.remove()
    assert not root.exists()


def test_a_number_that_is_another_process_s_shows_nothing(core: Core) -> None:
    core.register("one@vda", "one", "tuner", pid=os.getpid(), uid=os.getuid() + 1)
    core.register("two@vda", "two", "tuner", pid=(1 << 22) + 1, uid=0)
    for row in columns(core.stats()).values():
        assert (row["pid"], row["cpu_ms"], row["rss_kib"]) == ("-", "-", "-")


# Actions


def test_each_action_reaches_its_own_instance(core: Core, bare: Path) -> None:
    first, second = (member(core, bare, name) for name in ("one@a", "two@a"))
    recommend(first, 1, 5)
    recommend(second, 1, 101)
    recommend(first, 2, 6)
    assert [(a.id, a.instance) for a in first.poll(1)] == [(1, 1), (2, 1)]
    assert [(a.id, a.instance, a.verdict) for a in second.poll(1)] == [(1, 2, Verdict.RANGE)]
    recommend(second, 2, 102)
    assert {slot: [a.id for a in told] for slot, told in core.actions.poll(1).items()} == {2: [2]}
    assert core.actions.poll(0) == {}
    first.close()
    second.close()


def test_what_waits_for_an_instance_is_kept_and_no_more(core: Core, bare: Path) -> None:
    agent = member(core, bare, "one@a")
    core.actions.detach(1)
    recommend(agent, 1, 5)
    assert core.actions.poll(0) == {}
    core.actions.attach(1, agent._decode)
    assert [a.id for a in agent.poll(0)] == [1]
    # What was meant for an earlier instance in this slot does not reach the next one.
    recommend(agent, 2, 6)
    core.unregister(1)
    assert core.register("other@a", "bare", "tuner") == 1
    core.actions.attach(1, agent._decode)
    assert agent.poll(0) == []
    agent.close()


def test_one_that_asks_without_end_does_not_fill_the_ring(core: Core, bare: Path) -> None:
    """Renewals cost no rate: one instance floods, the other's approval still gets through."""
    loud, quiet = member(core, bare, "loud@a"), member(core, bare, "quiet@a")
    quiet.admission.grant(2, 1, Grant(0, 100, 0))
    for rec_id in range(1, 6000):
        recommend(loud, rec_id, 5)
    account = loud.account()
    assert account["verdict_busy"] > 5000
    assert account["verdict_approved"] + account["verdict_renewed"] < 6000 - 5000
    header = quiet.arena[: layout.HEADER.itemsize].view(layout.HEADER)
    words = {"knob": 2, "target": 1, "type": 1, "value": 7, "expires_ns": 1 << 63}
    write_slot(
        quiet.arena, quiet.geometry, int(header["cq_head"][0]), recommendation(0, id=1, **words)
    )
    quiet.work(admits=1)
    assert [a.verdict for a in quiet.poll(1)] == [Verdict.APPROVED]
    loud.close()
    quiet.close()


def test_refusals_of_many_hide_no_emergency(core: Core, bare: Path) -> None:
    """Nor do approvals: the ring's last quarter is for modes, and the core's map says them too."""
    noisy = [member(core, bare, f"noisy{n}@a") for n in range(40)]
    quiet = member(core, bare, "quiet@a")
    for agent in noisy:
        for rec_id in range(1, 120, 2):
            recommend(agent, rec_id, 101)
            recommend(agent, rec_id + 1, 5)  # of the knob that the first one has
    accounts = [agent.account() for agent in noisy]
    assert all(each["actions_lost"] > 0 for each in accounts)
    assert sum(each["verdict_range"] for each in accounts) == 40 * 60  # each is counted
    assert quiet.mode == Mode.AUTO
    quiet.set_mode(Mode.EMERGENCY)
    assert quiet.mode == Mode.EMERGENCY
    told = core.actions.poll(0)
    assert [(a.kind, a.mode) for a in told[quiet._place.slot]] == [("mode", Mode.EMERGENCY)]
    refused = [[a for a in told.get(n, []) if a.verdict == Verdict.RANGE] for n in range(1, 41)]
    assert 0 < max(map(len, refused)) <= 34  # a burst of 32, and what the time has brought
    for agent in (*noisy, quiet):
        agent.close()


# The owner, and what it may write


def test_without_an_owner_nothing_is_approved(core: Core, bare: Path) -> None:
    agent = member(core, bare, "one@a")
    recommend(agent, 1, 5)
    core.beat()
    pid, age = core.owner()
    assert (pid, age < 60) == (os.getpid(), True)
    recommend(agent, 2, 6)
    words = np.zeros((), layout.OWNER)
    words["beat_ns"] = time.monotonic_ns() - 5_001_000_000
    core._map("owner").update(bytes(4), words.tobytes())
    recommend(agent, 3, 7)
    recommend(agent, 4, 6)
    recommend(agent, 5, 101)
    core.beat()
    recommend(agent, 6, 8)
    assert [a.verdict for a in agent.poll(1)] == [
        Verdict.APPROVED,
        Verdict.APPROVED,
        Verdict.OWNER,
        Verdict.OWNER,
        Verdict.RANGE,
        Verdict.APPROVED,
    ]
    agent.close()


def test_what_is_approved_can_be_looked_up(core: Core, bare: Path) -> None:
    """The gate reads it: the last value that passed, and the baseline of the first change."""
    agent = member(core, bare, "one@a")
    recommend(agent, 1, 5)
    recommend(agent, 2, 6)
    recommend(agent, 3, 101)
    (approved,) = core.approvals.all().values()
    assert (approved.value, approved.baseline, approved.instance, approved.id) == (6, 0, 1, 2)
    assert not core.approvals.disapprove(1, 1, slot=2)
    assert core.approvals.disapprove(1, 1, slot=1)
    assert not core.approvals.disapprove(1, 1)
    core.approvals.approve(1, 1, 9, 3, 1, rec_id=4)
    assert core.approvals.all()[1, 1][:4] == (9, 3, 1, 4)
    for mode in (Mode.OBSERVE, Mode.ADVISE):
        agent.set_mode(mode)
        recommend(agent, 10 + mode, 50)
    assert core.approvals.all()[1, 1].value == 9
    agent.close()
    core.unregister(1)
    assert core.approvals.all() == {}
