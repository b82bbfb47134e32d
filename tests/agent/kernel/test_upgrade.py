# SPDX-License-Identifier: Apache-2.0
"""An upgrade that fails at any step changes nothing; an owner that is killed there loses nothing.

Processes rename themselves meanwhile, and count how often: an event that neither generation
took, or both, would show.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import BareAgent
from members import member, recommend
from renamers import HOOKS, NAME, Load, until

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.kernel import agent as agent_module
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Mode, Verdict
from kmind.errors import BpfError, KmindError, UndoError
from kmind.util.steps import Step, run_steps

pytestmark = [
    pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall", "tp_btf"),
    pytest.mark.usefixtures("each_shape"),
]

WORDS: dict[str, Any] = {"hooks": HOOKS, "deadline_s": 3600}
EVENTS = ("os.remove", "os.rmdir", "os.rename", "os.mkdir")


def load(core: Core, renames: Path) -> BpfAgent:
    slot = core.register(NAME, "renames", "reporter")
    agent = BpfAgent(renames, core=core, slot=slot, sq_slots=64, **WORDS)
    agent.set_mode(Mode.AUTO)
    agent.pin(core.folder(NAME))
    agent.start()
    return agent


def check_whole(agent: BpfAgent, root: Path, generation: int) -> None:
    """It works, it is watched, and nothing of another generation is left."""
    assert agent.generation == generation
    assert agent.hooks.attached().keys() == {"on_rename", "on_timer"}
    assert [path.name for path in (root / "agents" / NAME).iterdir()] == [str(generation)]
    assert f"generation {generation}\n" in (root / "instances" / NAME).read_text()
    assert [path.name for path in (root / "instances").iterdir()] == [NAME]
    for _ in range(2):
        ticks = agent.account()["ticks"]
        until(lambda before=ticks: agent.account()["ticks"] > before)


def turning(place: int, *, done: bool, into: Callable[[], object]) -> Callable[[list[Step]], None]:
    """``run_steps``, but that at one step, done or not, something happens."""

    def run(steps: list[Step]) -> None:
        step = steps[place]

        def do() -> None:
            if done:
                step.do()
            into()

        run_steps([*steps[:place], Step(step.name, do, step.undo), *steps[place + 1 :]])

    return run


def fail() -> None:
    raise BpfError("no memory")


def step_names(agent: BpfAgent, object_: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def note(steps: list[Step]) -> None:
        names.extend(step.name for step in steps)
        fail()

    with monkeypatch.context() as patched:
        patched.setattr(agent_module, "run_steps", note)
        with pytest.raises(BpfError, match="no memory"):
            agent.upgrade(object_, **WORDS)
    return names


def test_an_upgrade_that_fails_at_any_step_changes_nothing(
    root: Path, renames: Path, tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core.open(root)
    agent = load(core, renames)
    names = step_names(agent, renames, monkeypatch)
    assert len(names) > 8
    programs = dict(agent.hooks.attached())
    load_ = Load(tmp_path, 0.0005, started)
    for place in range(len(names)):
        for done in (False, True):
            if done and place == len(names) - 1:
                continue  # it is the last one: done, all is done
            with monkeypatch.context() as patched:
                patched.setattr(agent_module, "run_steps", turning(place, done=done, into=fail))
                with pytest.raises(BpfError, match="no memory"):
                    agent.upgrade(renames, **WORDS)
            assert agent.hooks.attached() == programs, names[place]
            check_whole(agent, root, 1)
    agent.upgrade(renames, **WORDS)
    check_whole(agent, root, 2)
    assert load_.stop() == agent.feature(0) > 1000
    agent.close()
    core.remove()


def test_a_step_that_cannot_be_undone_is_said(
    root: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core.open(root)
    agent = member(core, bare, "one@a")
    agent.pin(core.folder("one@a"))
    agent.start()

    def run(steps: list[Step]) -> None:
        run_steps([*steps[:2], Step("the last", fail, fail)])

    monkeypatch.setattr(agent_module, "run_steps", run)
    with pytest.raises(UndoError, match=r"no memory; then this failed: undoing the last: no mem"):
        agent.upgrade(bare, deadline_s=3600)
    recommend(agent, 1, 5)
    assert [a.verdict for a in agent.poll(1)] == [Verdict.APPROVED]
    agent.close()
    core.remove()


def test_what_a_failed_pin_leaves_is_removed(
    root: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core.open(root)
    agent = member(core, bare, "one@a")
    folder = core.folder("one@a")
    with monkeypatch.context() as patched:
        patched.setattr("kmind.agent.kernel.generation.Program.attach_iter", lambda *_: fail())
        with pytest.raises(BpfError, match="no memory"):
            agent.pin(folder)
        assert not folder.exists()
    agent.pin(folder)
    agent.start()
    with monkeypatch.context() as patched:
        patched.setattr("kmind.agent.kernel.generation.Program.attach_iter", lambda *_: fail())
        with pytest.raises(BpfError, match="no memory"):
            agent.upgrade(bare, deadline_s=3600)
    assert [path.name for path in folder.iterdir()] == ["1"]
    agent.close()
    core.remove()


def killed_in_upgrade(root: Path, renames: Path, arm: Callable[[], None]) -> bool:
    """True if an owner, made ready by ``arm`` to kill itself, did so as it upgraded."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            core = Core.open(root)
            agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=HOOKS)
            arm()
            agent.upgrade(renames, **WORDS)
            os._exit(0)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(place: int, *, done: bool) -> Callable[[], None]:
    def arm() -> None:
        agent_module.run_steps = turning(place, done=done, into=end)

    return arm


def at_file(number: int) -> Callable[[], None]:
    """Killed before the n-th file or folder that is made, moved or removed."""

    def arm() -> None:
        seen = 0

        def look(event: str, _: object) -> None:
            nonlocal seen
            if event in EVENTS:
                seen += 1
                if seen == number:
                    end()

        sys.addaudithook(look)

    return arm


@pytest.mark.slow
@pytest.mark.fault
def test_an_owner_killed_between_any_two_steps_loses_nothing(
    root: Path, renames: Path, tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core.open(root)
    agent = load(core, renames)
    places = len(step_names(agent, renames, monkeypatch))
    agent.release()
    core.close()
    load_ = Load(tmp_path, 0.0005, started)
    deaths = [at_step(place, done=done) for place in range(places) for done in (False, True)]
    kills, generation = 0, 1

    def go_on() -> None:
        nonlocal generation
        core = Core.open(root)
        agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=HOOKS)
        assert agent.generation in (generation, generation + 1)
        generation = agent.generation
        check_whole(agent, root, generation)
        agent.release()
        core.close()

    for arm in deaths:
        assert killed_in_upgrade(root, renames, arm)
        go_on()
    while killed_in_upgrade(root, renames, at_file(kills + 1)):
        kills += 1
        go_on()
    assert kills > 20, "an upgrade removes more pins than that"
    core = Core.open(root)
    agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=HOOKS)
    assert load_.stop() == agent.feature(0) > 1000
    agent.close()
    core.remove()


@pytest.mark.fault
def test_an_agent_is_watched_while_its_owner_is_dead_half_way(
    root: Path, renames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with the word between two generations, one of them ticks."""
    for name in (f"word {1 | layout.PHASE['LEAVING']:#x}", "the new tick"):
        core = Core.open(root)
        agent = load(core, renames)
        place = step_names(agent, renames, monkeypatch).index(name)
        agent.release()
        core.close()
        assert killed_in_upgrade(root, renames, at_step(place, done=True))
        shown = root / "instances" / NAME

        def ticks(path: Path = shown) -> int:
            lines = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
            return int(lines["ticks"])

        before = ticks()
        until(lambda before=before: ticks() > before)
        core = Core.open(root)
        agent = BpfAgent.adopt(core.folder(NAME), core=core, slot=1, hooks=HOOKS)
        check_whole(agent, root, agent.generation)
        agent.close()
        core.unregister(1)
        core.remove()


def test_the_generation_is_chosen_by_its_state(root: Path, bare: Path) -> None:
    core = Core.open(root)
    agent = member(core, bare, "one@a")
    folder = core.folder("one@a")
    agent.pin(folder)
    agent.start()
    agent.release()
    # What an owner leaves that was killed as it removed, or made, the pins of others.
    (folder / "0" / "maps").mkdir(parents=True)
    (folder / "7").mkdir()
    (folder / "x").mkdir()
    agent = BareAgent.adopt(folder, core=core, slot=1)
    assert agent.generation == 1
    recommend(agent, 1, 5)
    assert [a.verdict for a in agent.poll(1)] == [Verdict.APPROVED]
    (folder / "x").rmdir()
    agent.close()
    with pytest.raises(KmindError, match="no agent is pinned"):
        BareAgent.adopt(folder, core=core, slot=1)
    core.remove()
