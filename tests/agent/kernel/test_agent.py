# SPDX-License-Identifier: Apache-2.0
"""Agents outlive their loader, and are upgraded while they work: each event counts once.

Processes rename themselves to one number after the other. That the kernel's side saw each
number exactly once is told by the numbers, and how many there were by the processes.
"""

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import WORK, BareAgent, compile_bpf
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from members import member, recommend
from renamers import HOOKS, NAME, Load, until

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.kernel.generation import Generation
from kmind.agent.kernel.shared_memory import choose_shape
from kmind.agent.kernel.spec import Place, Spec
from kmind.agent.types import Grant, Mode, Verdict
from kmind.errors import BpfError, KmindError, LoadError, NotSupportedError
from kmind.queue import Doorbell, Endpoint, Geometry

pytestmark = [
    pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall", "tp_btf"),
    pytest.mark.usefixtures("each_shape"),
]

UPGRADES = 30
KILLS = 12
LEAVING, ENTERING = layout.PHASE["LEAVING"], layout.PHASE["ENTERING"]


@pytest.fixture
def one_cpu() -> Iterator[int]:
    """This thread stays on one CPU, as an event does."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    yield cpu
    os.sched_setaffinity(0, before)


@pytest.fixture
def two(bare: Path) -> Iterator["Two"]:
    made = Two(bare)
    yield made
    made.close()


class Tally:
    """Reads an agent's records in a thread of its own, as an extension would."""

    def __init__(self, arena: Any, bell: Doorbell) -> None:
        self.endpoint: Endpoint | None = Endpoint(arena, bell)
        self.batches: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._take():
                time.sleep(0.002)

    def _take(self) -> int:
        taken = 0
        assert self.endpoint is not None
        for ring in self.endpoint.records:
            while len(batch := ring.peek()):
                self.batches.append(batch.copy())
                taken += len(batch)
                ring.release(len(batch))
        self.endpoint.beat()
        return taken

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._take()
        self.mode = self.endpoint.mode if self.endpoint else 0
        self.endpoint = None  # or the arena would stay mapped, and could not be mapped anew

    def check(self, done: int, dropped: int) -> None:
        """Each number came once; each ring's numbering has no gap."""
        records = np.concatenate(self.batches)
        for cpu in set(records["cpu"].tolist()):
            seq = records["seq"][records["cpu"] == cpu].astype(np.int64)
            assert (np.diff(seq) == 1).all()
        numbers = Counter(records["value"][records["kind"] == layout.KIND["MODULE"]].tolist())
        assert dropped == 0
        assert [number for number, times in numbers.items() if times > 1] == []
        assert len(numbers) == done


@pytest.mark.slow
def test_an_upgrade_neither_loses_nor_doubles(
    root: Path, renames: Path, tmp_path: Path, started: list[int]
) -> None:
    core = Core.open(root)
    slot = core.register(NAME, "renames", "reporter")
    words = {"hooks": HOOKS, "deadline_s": 3600}
    agent = BpfAgent(renames, core=core, slot=slot, sq_slots=1 << 16, **words)
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    agent.set_mode(Mode.AUTO)
    agent.pin(core.folder(NAME))
    agent.start()
    tally = Tally(agent.arena, Doorbell(agent.doorbell_fd))
    before = agent.feature(1)
    load = Load(tmp_path, 0.0005, started)
    for turn in range(UPGRADES):
        agent.upgrade(renames, **words)
        assert agent.generation == turn + 2
    done = load.stop()
    account = agent.account()
    tally.stop()
    tally.check(done, account["dropped"])
    assert agent.feature(0) == done > 10_000
    assert agent.feature(1) > before
    # Grants, mode and tick have gone on; of the old programs nothing is left.
    assert tally.mode == Mode.AUTO
    assert sorted(path.name for path in core.folder(NAME).iterdir()) == [str(UPGRADES + 1)]
    assert agent.account()["verdict_emergency"] == 0
    ticks = agent.account()["ticks"]
    until(lambda: agent.account()["ticks"] > ticks)
    agent.close()
    core.remove()


def own(root: Path, renames: Path, ready: Any, *, first: bool) -> None:
    """Act as a daemon until it is killed: load or take over, then look and upgrade."""
    core = Core.open(root)
    if first:
        slot = core.register(NAME, "renames", "reporter")
        agent = BpfAgent(
            renames, core=core, slot=slot, hooks=HOOKS, sq_slots=1 << 16, deadline_s=3600
        )
        agent.set_mode(Mode.AUTO)
        agent.pin(core.folder(NAME))
        agent.start()
    else:
        agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=HOOKS)
    os.write(ready, b"!")
    while True:
        agent.poll(0.01)
        core.beat()
        if not first:  # the test takes charge of the first one's, to count
            agent.upgrade(renames, hooks=HOOKS, deadline_s=3600)


@pytest.mark.slow
@pytest.mark.fault
def test_its_owner_is_killed_again_and_again(
    root: Path, renames: Path, tmp_path: Path, started: list[int]
) -> None:
    """At any moment, also in the middle of an upgrade: the agent counts on."""
    choose = random.Random(5)
    tally = load = None
    for turn in range(KILLS):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                own(root, renames, theirs, first=turn == 0)
            os._exit(1)
        started.append(pid)
        os.close(theirs)
        assert os.read(ours, 1) == b"!", "the owner ended by itself"
        os.close(ours)
        if tally is None:
            watching = Core.open(root)
            agent = BpfAgent.adopt(root / "agents" / NAME, core=watching, slot=1)
            tally = Tally(agent.arena, Doorbell(agent.doorbell_fd))
            load = Load(tmp_path, 0.0005, started)
        time.sleep(choose.random() * 1.5)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert tally is not None
    assert load is not None
    done = load.stop()
    tally.stop()
    agent.release()
    watching.close()
    core = Core.open(root)
    agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=HOOKS)
    tally.check(done, agent.account()["dropped"])
    assert agent.feature(0) == done > 1000
    assert agent.hooks.attached().keys() == HOOKS.keys() | {"on_timer"}
    assert agent.generation > 2
    agent.close()
    core.remove()


# The word that says which generation takes an event, step by step.


class Two:
    """Two generations of one agent, and the steps of the word from the one to the other."""

    def __init__(self, bare: Path) -> None:
        place = Place((1 << 44) + (200 << 32), Geometry.plan(2, 64), 0, choose_shape())
        self.old = Generation.load(Spec(bare), place, 1)
        self.new = Generation.load(Spec(bare), place, 2, before=self.old)

    def close(self) -> None:
        self.new.close()
        self.old.close()

    def say(self, word: int) -> None:
        self.new.control("ACTIVE", value=word)

    @staticmethod
    def takes(generation: Generation) -> bool:
        ran = generation.programs["bare_asks"].test_run(bytes(WORK.itemsize))
        return bool(np.frombuffer(ran.ctx, WORK)[0]["pushed"])


# An event is the old program, what comes in between, and the new one. In between come other
# events, as interrupts, and at most one step of the word in all (the owner waits after each).
nested = st.recursive(
    st.just(()), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6
)


FORTH = (1, 1 | LEAVING, 2 | ENTERING, 2)
BACK = (2 | ENTERING, 1 | LEAVING | ENTERING, 1)
# An upgrade that fails turns back at a step, which was done or not.
PATHS = (FORTH, FORTH + BACK, FORTH[:3] + BACK, FORTH[:3] + BACK[1:], FORTH[:2] + BACK[1:])


@given(
    path=st.sampled_from((*PATHS, FORTH[:2] + BACK[2:])),
    trees=st.lists(nested, min_size=4, max_size=16),
    choose=st.randoms(use_true_random=False),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_event_is_taken_by_one(
    two: Two, one_cpu: int, path: tuple[int, ...], trees: list[Any], choose: random.Random
) -> None:
    two.say(path[0])
    turn = 0

    def run(tree: tuple[Any, ...]) -> None:
        nonlocal turn, stepped
        taken = two.takes(two.old)
        for inner in (*tree, None):
            if not stepped and turn + 1 < len(path) and choose.random() < 0.5:
                stepped, turn = True, turn + 1
                two.say(path[turn])
                event(f"{path[turn - 1]:#x} to {path[turn]:#x} within an event")
            if inner is not None:
                run(inner)
        assert taken + two.takes(two.new) == 1

    for tree in trees:
        stepped = False
        run(tree)


# One by one.


def test_an_agent_outlives_its_loader(root: Path, bare: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            core = Core.open(root)
            agent = member(core, bare, "one@a")
            agent.pin(core.folder("one@a"))
            agent.start()
            agent.work(pushes=3, kind=64, value=10, count=7)
            recommend(agent, 1, 5)
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    core = Core.open(root)
    agent = BareAgent.adopt(core.folder("one@a"), core=core, slot=1)
    ticks = agent.account()["ticks"]
    until(lambda: agent.account()["ticks"] > ticks)
    # What the loader left unread is there, and what it was not told reaches the next owner.
    assert agent.feature(0) == 7
    values = [ring.peek()["value"].tolist() for ring in Endpoint(agent.arena, _bell(agent)).records]
    assert [10, 11, 12] in [row[-3:] for row in values]
    (told,) = agent.poll(1)
    assert (told.id, told.verdict, told.value) == (1, Verdict.APPROVED, 5)
    recommend(agent, 2, 6)
    assert [a.id for a in agent.poll(1)] == [2]
    agent.close()
    core.unregister(1)
    core.remove()
    assert not root.exists()


def _bell(agent: BpfAgent) -> Doorbell:
    return Doorbell(agent.doorbell_fd)


def test_hooks_can_be_watched_after_a_takeover(root: Path, renames: Path) -> None:
    core = Core.open(root)
    core.register(NAME, "renames", "reporter")
    hooks = {**HOOKS, "on_timer": "hrtimer_expire_exit", "on_none": "no_such_tracepoint"}
    agent = BpfAgent(
        renames, core=core, slot=1, hooks=HOOKS, deferred=["on_timer"], sq_slots=64, deadline_s=3600
    )
    agent.pin(core.folder(NAME))
    agent.start()
    agent.hooks.watch("on_timer", True)
    assert agent.hooks.attached().keys() == {"on_rename", "on_timer"}
    numbers = dict(agent.hooks.attached())
    agent.release()
    agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=hooks, deferred=["on_timer"])
    assert agent.hooks.attached() == numbers
    assert agent.hooks.missing() == {"on_none": "this kernel has no tracepoint no_such_tracepoint"}
    for wanted in (True, False, False, True):
        agent.hooks.watch("on_timer", wanted)
        assert ("on_timer" in agent.hooks.attached()) == wanted
        before = agent.feature(1)
        time.sleep(0.05)
        assert (agent.feature(1) > before) == wanted
    # An upgrade keeps what is watched as it is.
    agent.upgrade(renames, hooks=HOOKS, deferred=["on_timer"], deadline_s=3600)
    assert agent.hooks.attached().keys() == {"on_rename", "on_timer"}
    agent.hooks.watch("on_timer", False)
    agent.upgrade(renames, hooks=HOOKS, deferred=["on_timer"], deadline_s=3600)
    assert agent.hooks.attached().keys() == {"on_rename"}
    agent.close()
    core.remove()


def test_an_upgrade_without_pins(core: Core, bare: Path) -> None:
    """Queues, grants, mode, accounts and the tick go on; the clock of a window, too."""
    agent = member(core, bare, "one@a")
    agent.start()
    recommend(agent, 1, 5)
    agent.work(pushes=2, kind=64)
    before = agent.account()
    agent.upgrade(bare, deadline_s=3600)
    assert agent.generation == 2
    recommend(agent, 2, 5)
    agent.work(pushes=2, kind=64)
    after = agent.account()
    assert after["pushed"] == before["pushed"] + 2
    assert after["verdict_renewed"] == 1
    ticks = after["ticks"]
    until(lambda: agent.account()["ticks"] > ticks + 3)
    assert [a.verdict for a in agent.poll(1)] == [Verdict.APPROVED, Verdict.RENEWED]
    agent.close()


def test_an_upgrade_without_a_core(bare: Path) -> None:
    agent = BareAgent(bare, sq_slots=64, deadline_s=3600)
    agent.set_mode(Mode.AUTO)
    agent.start()
    agent.upgrade(bare, deadline_s=3600)
    agent.set_mode(Mode.ADVISE)
    assert [a.mode for a in agent.poll(1)] == [Mode.AUTO, Mode.ADVISE]
    agent.close()


def test_an_upgrade_that_fails_changes_nothing(
    root: Path, bare: Path, renames: Path, tmp_path: Path
) -> None:
    core = Core.open(root)
    agent = member(core, bare, "one@a")
    agent.pin(core.folder("one@a"))
    agent.start()
    refused = tmp_path / "refused.bpf.c"
    refused.write_text(
        '#include <kmind/agent.h>\nSEC("tp_btf/task_rename")\nint KM_HOOK(on_it, void *task)\n'
        "{\n\tlong (*absent)(void) = (void *)9999;\n\n\treturn absent();\n}\n"
    )
    with pytest.raises(LoadError):
        agent.upgrade(compile_bpf(refused, tmp_path / "refused.bpf.o"))
    with pytest.raises(NotSupportedError, match="no tracepoint absent"):
        agent.upgrade(renames, hooks={"on_rename": "absent"})
    with pytest.raises(KmindError, match="cannot be read: No such file"):
        agent.upgrade(tmp_path / "absent.bpf.o")
    assert agent.generation == 1
    assert [path.name for path in core.folder("one@a").iterdir()] == ["1"]
    recommend(agent, 1, 5)
    assert [a.verdict for a in agent.poll(1)] == [Verdict.APPROVED]
    agent.close()
    core.remove()


def test_what_cannot_be_taken_over(root: Path, bare: Path) -> None:
    core = Core.open(root)
    with pytest.raises(BpfError, match=r"no agent is pinned at .*; load its instance again"):
        BareAgent.adopt(core.folder("none@a"), core=core, slot=1)
    agent = member(core, bare, "one@a")
    folder = core.folder("one@a")
    agent.pin(folder)
    agent.release()
    agent.release()
    (folder / "1" / "maps" / "km_arena").unlink()
    with pytest.raises(BpfError, match=r"not complete: .*; load its instance again, after: rm -r"):
        BareAgent.adopt(folder, core=core, slot=1)
    shutil.rmtree(folder)
    core.remove()
