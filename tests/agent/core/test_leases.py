# SPDX-License-Identifier: Apache-2.0
"""Leases on the real kernel: one holder at a time, whoever asks, from wherever."""

import itertools
import os
import random
import threading
import time
from collections import defaultdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from agents import BareAgent, compile_bpf
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from members import member, recommend
from programs import machine_lacks

from kmind.abi import layout
from kmind.agent.core.codec import Claim
from kmind.agent.core.core import Core
from kmind.agent.types import Grant, Mode, Verdict
from kmind.bpf import BpfObject
from kmind.errors import BpfError

pytestmark = pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall")

SLACK_S = layout.LIMIT["LEASE_SLACK_MS"] / 1000
ROUNDS = 3000
TURNS = 3_000_000
LEASES = Path(__file__).parents[1] / "leases.bpf.c"
WORK = np.dtype(
    [(name, "<u4") for name in ("slot", "priority", "turns", "keep")]
    + [(name, "<u8") for name in ("taken", "denied", "handed_over", "together", "misnamed")]
)
"""``struct leases_work`` of leases.bpf.c."""

PROCESSES = 4
KNOBS = 2


def test_one_holder(core: Core) -> None:
    for name in "ab":
        core.register(name, "m", "tuner")
    before = time.monotonic()
    assert core.leases.acquire(1, 5, 6, hold_s=60) == Claim(True, 1, 0)
    assert core.leases.acquire(2, 5, 6, hold_s=60) == Claim(False, 1, 0)
    assert core.leases.acquire(2, 5, 7, hold_s=60) == Claim(True, 2, 0)  # of another target
    first, second = core.leases.all()
    assert (first.knob, first.target, first.slot, first.priority, first.denied) == (5, 6, 1, 100, 1)
    assert before + 60 <= first.expires_s - SLACK_S + 0.001 <= time.monotonic() + 60.001
    assert second.slot == 2
    # Held on to: never for less than before.
    assert core.leases.acquire(1, 5, 6, hold_s=1) == Claim(True, 1, 0)
    assert core.leases.all()[0].expires_s == first.expires_s
    assert [each.held for each in core.instances()] == [1, 1]
    assert core.leases.release(2, 5, 6) == 0
    assert core.leases.release(1, 5, 6) == 1
    assert core.leases.release(1, 5, 6) == 0
    assert core.leases.acquire(2, 5, 6, hold_s=60) == Claim(True, 2, 0)
    assert [each.held for each in core.instances()] == [0, 2]
    assert core.leases.release(2) == 2
    assert core.leases.all() == []


def test_a_higher_priority_takes_it_over(core: Core) -> None:
    for name in "abc":
        core.register(name, "m", "tuner")
    assert core.leases.acquire(1, 5, 6, hold_s=60, priority=10)
    assert core.leases.acquire(2, 5, 6, hold_s=60, priority=10) == Claim(False, 1, 0)
    assert core.leases.acquire(2, 5, 6, hold_s=60, priority=11) == Claim(True, 2, 1)
    assert core.leases.acquire(1, 5, 6, hold_s=60, priority=11) == Claim(False, 2, 0)
    assert core.leases.acquire(3, 5, 6, hold_s=60, priority=255) == Claim(True, 3, 2)
    assert [each.held for each in core.instances()] == [0, 0, 1]
    assert core.leases.release(2, 5, 6) == 0


def test_an_expired_one_is_free_and_names_its_last_holder(core: Core) -> None:
    for name in "ab":
        core.register(name, "m", "tuner")
    assert core.leases.acquire(1, 5, 6, hold_s=0.1, priority=200)
    until = core.leases.all()[0].expires_s
    while time.monotonic() < until - 0.01:
        assert not core.leases.acquire(2, 5, 6, hold_s=60)
        time.sleep(0.05)
    time.sleep(max(0, until - time.monotonic()) + 0.005)
    assert core.leases.acquire(2, 5, 6, hold_s=60) == Claim(True, 2, 1)


def test_nobody_s_slot_gets_none(core: Core) -> None:
    assert not core.leases.acquire(0, 5, 6, hold_s=60)
    assert not core.leases.acquire(64, 5, 6, hold_s=60)
    assert core.leases.all() == []


def test_no_room_for_one_more(core: Core) -> None:
    core.register("a", "m", "tuner")
    most = layout.LIMIT["LEASES"]
    for knob in range(most):
        assert core.leases.acquire(1, knob, 0, hold_s=60), knob
    assert core.leases.acquire(1, most, 0, hold_s=60) == Claim(False, 0, 0)
    assert core.fill()["leases"] == (most, most)
    assert [(each.knob, each.target) for each in core.leases.all()] == [(n, 0) for n in range(most)]
    assert core.leases.acquire(1, most - 1, 0, hold_s=60) == Claim(True, 1, 0)  # it has its place
    assert core.leases.release(1) == most
    held = core.instance(1)
    assert held is not None
    assert held.held == 0


def test_places_are_free_again_once_nobody_needs_them(core: Core) -> None:
    """Three times as many knobs and targets as there are places, one after the other."""
    core.register("a", "m", "tuner")
    size = layout.LIMIT["LEASES"]
    for knob in range(3 * size):
        assert core.leases.acquire(1, knob, 7, hold_s=60), knob
        core.leases.release(1, knob, 7)
    assert core.fill()["leases"] == (0, size)
    # What is granted keeps its place, held or not, until it is granted no more.
    handle = core.leases.place(1, 5, 6)
    assert core.leases.place(1, 5, 6) == handle
    assert core.leases.acquire(1, 5, 6, hold_s=60)
    core.leases.release(1)
    assert core.fill()["leases"].used == 1
    assert core.instances()[0].places == 1
    core.register("b", "m", "tuner")
    assert core.leases.place(2, 5, 6) == handle
    core.leases.leave(1, 5, 6)
    core.leases.leave(1, 5, 6)
    assert core.fill()["leases"].used == 1
    core.unregister(2)
    assert core.fill()["leases"].used == 0
    assert core.instances()[0].places == 0
    assert core.leases.place(1, 5, 6) != handle  # it is of another generation


def test_a_place_of_another_generation_is_nobody_s(core: Core, bare: Path) -> None:
    """An agent that still knows a place as its own does not get the lease of another knob."""
    agent = member(core, bare, "one@a")
    core.register("two@a", "m", "tuner")
    core.leases.leave(
        1, 1, 1
    )  # as if the instance had been unregistered before its agent was closed
    assert core.leases.acquire(2, 2, 2, hold_s=60)  # in the same place
    recommend(agent, 1, 5)
    assert answers(agent) == [(Verdict.ROOM, 0, 0)]
    assert [(each.knob, each.target, each.slot) for each in core.leases.all()] == [(2, 2, 2)]
    assert core.approvals.all() == {}
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    recommend(agent, 2, 5)
    assert answers(agent) == [(Verdict.APPROVED, 1, 0)]
    agent.close()


def test_a_grant_that_is_revoked_frees_its_places(core: Core, bare: Path) -> None:
    agent = member(core, bare, "one@a")
    for knob in range(2, 5000):
        agent.admission.grant(knob, 7, Grant(0, 100, 0))
        agent.admission.revoke(knob, 7)
    assert agent.admission.fill() == (1, layout.LIMIT["GRANTS"])
    assert core.fill()["leases"].used == 1
    # Revoking one does not hide the others behind it.
    for knob in range(2, 200):
        agent.admission.grant(knob, 7, Grant(0, 100, 0))
    for knob in range(2, 200, 2):
        agent.admission.revoke(knob, 7)
    for knob in range(3, 200, 2):
        agent.admission.grant(knob, 7, Grant(0, 100, 0))
    assert agent.admission.fill().used == 100
    recommend(agent, 1, 5, knob=3, target=7)
    recommend(agent, 2, 5, knob=4, target=7)
    assert [verdict for verdict, _, _ in answers(agent)] == [Verdict.APPROVED, Verdict.UNKNOWN]
    agent.close()


def test_a_table_of_grants_that_is_full(core: Core, bare: Path) -> None:
    agent = member(core, bare, "one@a")

    def grant(knobs: range) -> None:
        for knob in knobs:
            agent.admission.grant(knob, 7, Grant(0, 100, 0))

    with pytest.raises(BpfError, match="no room for one more grant among the 512 places"):
        grant(range(2, 600))
    assert agent.admission.fill().used == core.fill()["leases"].used
    agent.close()


def test_what_stands_is_renewed_only_by_who_set_it(core: Core, bare: Path) -> None:
    """Or the value that stands anyway would get a lease for nothing: no rate, no experiment."""
    agent = member(core, bare, "one@a", interval_ns=3600 * 10**9, burst=2)
    other = member(core, bare, "two@a")
    recommend(agent, 1, 0)  # the current value, set by nobody
    assert answers(agent) == [(Verdict.APPROVED, 1, 0)]
    recommend(agent, 2, 0)
    assert answers(agent) == [(Verdict.RENEWED, 1, 0)]
    core.free(1, 1, 1)
    recommend(agent, 3, 0)
    assert answers(agent) == [(Verdict.APPROVED, 1, 0)]
    core.free(1, 1, 1)
    recommend(agent, 4, 0)
    assert answers(agent) == [(Verdict.RATE, 0, 0)]
    assert core.leases.all() == []
    # Nor where another one has set it.
    recommend(other, 1, 7)
    other.poll(0)
    agent.admission.set_current(1, 1, 7)
    recommend(agent, 5, 7)
    assert answers(agent) == [(Verdict.RATE, 0, 0)]
    agent.close()
    other.close()


# Against a model, one operation after the other.

slots = st.integers(1, 4)
knobs = st.tuples(st.integers(1, 2), st.integers(1, 2))
operations = st.one_of(
    st.tuples(st.just("acquire"), slots, knobs, st.sampled_from([0, 100, 100, 100, 255])),
    st.tuples(st.just("release"), slots, knobs, st.just(0)),
    st.tuples(st.just("release all"), slots, knobs, st.just(0)),
)


@given(then=st.lists(operations, max_size=60))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_is_what_a_dictionary_would_do(core: Core, then: list[Any]) -> None:
    for each in core.instances():
        core.unregister(each.slot)
    for name in "abcd":
        core.register(name, "m", "tuner")
    model: dict[tuple[int, int], tuple[int, int]] = {}
    for op, slot, key, priority in then:
        holder, stands = model.get(key, (0, 0))
        if op == "acquire":
            claim = core.leases.acquire(slot, *key, hold_s=3600, priority=priority)
            if holder in (0, slot) or stands < priority:
                model[key] = slot, priority
                assert claim == Claim(True, slot, holder if holder != slot else 0)
                event("handed over" if claim.previous else "taken")
            else:
                assert claim == Claim(False, holder, 0)
                event("denied")
        elif op == "release":
            assert core.leases.release(slot, *key) == int(holder == slot)
            model = {k: row for k, row in model.items() if k != key or row[0] != slot}
        else:
            gone = [k for k, row in model.items() if row[0] == slot]
            assert core.leases.release(slot) == len(gone)
            model = {k: row for k, row in model.items() if k not in gone}
        assert {(x.knob, x.target): (x.slot, x.priority) for x in core.leases.all()} == model
        held = {each.slot: each.held for each in core.instances()}
        assert held == {n: [row[0] for row in model.values()].count(n) for n in (1, 2, 3, 4)}


# From several processes at once.


class Tenure(NamedTuple):
    """From when to when a slot had a lease at the least, and at the most."""

    slot: int
    knob: int
    asked: int
    got: int
    left: int
    gone: int


class Denial(NamedTuple):
    """A request that was refused, and whom it named."""

    knob: int
    holder: int
    asked: int
    told: int


def contend(root: Path, slot: int, seed: int, pipe: Any) -> None:
    choose = random.Random(seed)
    core = Core.open(root)
    tenures, denials = [], []
    pipe.recv()
    for _ in range(ROUNDS):
        knob = choose.randrange(KNOBS)
        asked = time.monotonic_ns()
        claim = core.leases.acquire(slot, knob, 1, hold_s=3600)
        got = time.monotonic_ns()
        if not claim:
            denials.append(Denial(knob, claim.holder, asked, got))
            continue
        for _ in range(choose.randrange(3)):
            os.sched_yield()
        left = time.monotonic_ns()
        released = core.leases.release(slot, knob, 1)
        tenures.append(Tenure(slot, knob, asked, got, left, time.monotonic_ns()))
        assert (released, claim.previous) == (1, 0)
    core.close()
    pipe.send((tenures, denials))


@pytest.mark.fault
def test_processes_that_fight_over_a_lease(root: Path) -> None:
    """No two had it at a time, and each that was refused was told who had it."""
    core = Core.open(root)
    context = get_context("fork")
    workers = []
    for seed in range(PROCESSES):
        slot = core.register(f"i{seed}", "m", "tuner")
        ours, theirs = context.Pipe()
        worker = context.Process(target=contend, args=(root, slot, seed, theirs))
        worker.start()
        workers.append((worker, ours))
    for _, pipe in workers:
        pipe.send("go")
    told = [pipe.recv() for _, pipe in workers]
    for worker, _ in workers:
        worker.join()
        assert worker.exitcode == 0
    by_knob: dict[int, list[Tenure]] = defaultdict(list)
    for tenures, _ in told:
        for tenure in tenures:
            by_knob[tenure.knob].append(tenure)
    for tenures in by_knob.values():
        tenures.sort(key=lambda each: each.got)
        for before, after in itertools.pairwise(tenures):
            assert before.left <= after.got, (before, after)
    denials = [denial for _, rows in told for denial in rows]
    assert len(denials) > 100
    for denial in denials:
        assert any(
            each.slot == denial.holder and each.asked <= denial.told and denial.asked <= each.gone
            for each in by_knob[denial.knob]
        ), denial
    assert all(each.held == 0 for each in core.instances())
    assert core.leases.all() == []
    core.remove()


# In the kernel, as fast as can be.


@pytest.fixture(scope="module")
def leases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_bpf(LEASES, tmp_path_factory.mktemp("leases") / "leases.bpf.o")


@pytest.mark.parametrize(("priorities", "keep"), [((100, 100), 0), ((100, 200), 3)])
def test_cpus_that_fight_over_a_lease(leases: Path, priorities: tuple[int, int], keep: int) -> None:
    """Of equals only one has it at a time; a higher one takes it, and the counts add up."""
    if len(os.sched_getaffinity(0)) < 2:
        machine_lacks("a second CPU")
    with BpfObject(leases) as loaded:
        loaded.load()
        done = [np.zeros((), WORK) for _ in priorities]
        together = threading.Barrier(len(priorities))

        def run(number: int, cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})  # this thread's
            words = done[number]
            words["slot"], words["priority"] = number + 1, priorities[number]
            words["turns"], words["keep"] = TURNS, keep
            together.wait()
            ran = loaded.programs["contend"].test_run(words.tobytes())
            done[number] = np.frombuffer(ran.ctx, WORK)[0]

        cpus = itertools.cycle(sorted(os.sched_getaffinity(0)))
        threads = [
            threading.Thread(target=run, args=(number, cpu))
            for number, cpu in zip(range(len(priorities)), cpus, strict=False)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for words in done:
            assert words["taken"] + words["denied"] == TURNS
            assert words["taken"] > 0
            assert words["misnamed"] == 0
        if priorities[0] == priorities[1]:
            assert [int(words["together"]) for words in done] == [0, 0]
            assert [int(words["handed_over"]) for words in done] == [0, 0]
            assert sum(int(words["denied"]) for words in done) > 0
        else:
            assert [int(words["handed_over"]) > 0 for words in done] == [False, True]
        held = loaded.maps["km_leases"]
        rows = [np.frombuffer(held.lookup(key) or b"", layout.LEASE)[0] for key in held.keys()]  # noqa: SIM118
        (row,) = [each for each in rows if each["word"] or each["denied"]]
        assert row["denied"] == sum(int(w["denied"]) for w in done)


# Agents


def answers(agent: BareAgent) -> list[tuple[Verdict | None, int, int]]:
    """Verdict, holder and previous holder of each recommendation that was answered."""
    return [(a.verdict, a.holder, a.previous) for a in agent.poll(0) if a.kind == "verdict"]


def test_two_agents_fight_over_a_knob(core: Core, bare: Path) -> None:
    low, high = (
        member(core, bare, "low@a", priority=50),
        member(core, bare, "high@a", priority=60),
    )
    recommend(low, 1, 5)
    recommend(low, 2, 5)
    assert answers(low) == [(Verdict.APPROVED, 1, 0), (Verdict.RENEWED, 1, 0)]
    recommend(high, 1, 101)  # what is refused anyway takes nothing over
    recommend(high, 2, 7)
    assert answers(high) == [(Verdict.RANGE, 0, 0), (Verdict.APPROVED, 2, 1)]
    recommend(low, 3, 5)
    recommend(low, 4, 6)
    assert answers(low) == [(Verdict.LEASE, 2, 0), (Verdict.LEASE, 2, 0)]
    assert core.leases.all()[0].denied == 2
    # The value that passed is the holder's, and the way back leads to the value before both.
    assert core.approvals.all()[1, 1][:3] == (7, 0, 2)
    assert core.leases.release(2, 1, 1) == 1
    recommend(low, 5, 6)
    assert answers(low) == [(Verdict.APPROVED, 1, 0)]
    low.close()
    high.close()


def test_many_grants_each_with_its_place(core: Core, bare: Path) -> None:
    agent = member(core, bare, "one@a")
    knobs = range(2, 250)
    for knob in knobs:
        agent.admission.grant(knob, 7, Grant(knob, knob, 0))
    some = knobs[::6]
    for rec_id, knob in enumerate(some, 1):
        recommend(agent, rec_id, knob, knob=knob, target=7)
    assert answers(agent) == [(Verdict.APPROVED, 1, 0)] * len(some)
    assert [each.knob for each in core.leases.all()] == list(some)
    agent.admission.grant(2, 7, Grant(9, 9, 0))  # anew, in the same place
    recommend(agent, 900, 2, knob=2, target=7)
    recommend(agent, 901, 9, knob=2, target=7)
    recommend(agent, 902, 9, knob=2, target=8)
    assert [verdict for verdict, _, _ in answers(agent)] == [
        Verdict.RANGE,
        Verdict.APPROVED,
        Verdict.UNKNOWN,
    ]
    agent.close()


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.ADVISE, Mode.EMERGENCY])
def test_who_changes_nothing_takes_no_lease(core: Core, bare: Path, mode: Mode) -> None:
    agent = member(core, bare, "one@a", mode=mode)
    recommend(agent, 1, 5)
    assert core.leases.all() == []
    agent.close()


def test_a_lease_lasts_as_long_as_its_hold(core: Core, bare: Path) -> None:
    agent = member(core, bare, "one@a")
    for rec_id, hold_ms in ((1, 30_000), (2, (1 << 32) - 1)):
        before = time.monotonic()
        recommend(agent, rec_id, rec_id, hold_ms=hold_ms)
        (lease,) = core.leases.all()
        left = lease.expires_s - SLACK_S - hold_ms / 1000
        assert before - 0.002 <= left <= time.monotonic()
    agent.close()
