# SPDX-License-Identifier: Apache-2.0
"""Passing an objective's answers on to the extension, and what its parameters may say."""

import os
import pwd
import select
import threading
import time
from collections.abc import Callable
from typing import Literal

import pytest

from kmind.agent.types import Kind
from kmind.errors import PrivilegeError, UsageError
from kmind.extension import find_module, parse_parameters
from kmind.runtime.objective.poller import Poller, check_requester, settle
from kmind.runtime.objective.relay import Relay
from kmind.runtime.objective.sources import GapError


class Told:
    """Stands in for the agent: what it was told to hand on."""

    def __init__(self) -> None:
        self.notices: list[tuple[Kind, int]] = []

    def notify(self, kind: Kind, rec_id: int, value: int) -> None:
        assert 0 <= rec_id < 1 << 32
        self.notices.append((kind, value))


class Scripted:
    """Answers what it is given, one after another, then nothing until it is cancelled."""

    better: Literal["higher", "lower", ""] = "lower"
    timeout_s = 1.0

    def __init__(self, *answers: float | Exception | None) -> None:
        self._answers = list(answers)
        self.done = threading.Event()

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        if not self._answers:
            self.done.set()
            return None
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self) -> None:
        pass


class Hanging:
    """A question that nothing ends, as one that waits for a name server."""

    better: Literal["higher", "lower", ""] = ""
    timeout_s = 5.0

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.cut = threading.Event()
        self.answered = threading.Event()

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        self.asked.set()
        assert self.answered.wait(60)
        return 1.0

    def cancel(self) -> None:
        self.cut.set()


def asked(*answers: float | Exception | None) -> tuple[list[tuple[Kind, int]], list[str]]:
    told, lines, objective = Told(), [], Scripted(*answers)
    relay = Relay(told, lines.append)  # type: ignore[arg-type]
    asking = Poller(objective, relay, every_s=0.001, looks_back_s=0)
    asking.start()
    assert objective.done.wait(30)
    if any(answer is not None for answer in answers):
        assert select.select([asking.fd], [], [], 30)[0]
    asking.run_due()
    asking.close()
    asking.close()
    return told.notices, lines


def test_answers_are_handed_on_in_turn() -> None:
    notices, lines = asked(None, 1.5, GapError("timeout", "no answer within 2 s"), 2.0)
    assert notices == [
        (Kind.OBJECTIVE, 1_500_000),
        (Kind.NO_OBJECTIVE, 2),
        (Kind.OBJECTIVE, 2_000_000),
    ]
    assert "no answer within 2 s" in lines[0]


def test_an_answer_that_nobody_foresaw_is_a_gap_and_the_next_is_asked() -> None:
    notices, lines = asked(RuntimeError("surprise \x1b[2J"), 2.0)
    assert notices == [(Kind.NO_OBJECTIVE, 1), (Kind.OBJECTIVE, 2_000_000)]
    assert "RuntimeError: surprise  [2J" in lines[0]


def test_closing_leaves_no_thread_and_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    asked(1.0)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    until = time.monotonic() + 30
    while any(each.name == "objective" for each in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def hanging(told: Told, lines: list[str], clock: list[float]) -> tuple[Poller, Hanging]:
    objective = Hanging()
    relay = Relay(told, lines.append, now=lambda: clock[0])  # type: ignore[arg-type]
    asking = Poller(objective, relay, every_s=0.5, looks_back_s=0, now=lambda: clock[0])
    asking.start()
    return asking, objective


def test_closing_never_waits_for_a_question_that_hangs() -> None:
    asking, objective = hanging(Told(), [], [0.0])
    try:
        assert objective.asked.wait(30)
        began = time.monotonic()
        asking.close()
        assert time.monotonic() - began < 1
        assert objective.cut.is_set()
        again = os.eventfd(0)  # takes the number of the descriptor that was closed
        try:
            objective.answered.set()
            settle(30)
            assert not select.select([again], [], [], 0)[0]
        finally:
            os.close(again)
    finally:
        objective.answered.set()


def test_a_question_that_hangs_is_a_gap_again_and_again() -> None:
    told, lines, clock = Told(), list[str](), [0.0]
    asking, objective = hanging(told, lines, clock)
    try:
        assert objective.asked.wait(30)
        for clock[0] in (1.0, 5.9, 6.5, 6.7, 7.6):
            asking.run_due()
        assert told.notices == [(Kind.NO_OBJECTIVE, 2)] * 2
        assert len(lines) == 1
        assert "no answer within 5 s, and the request hangs" in lines[0]
    finally:
        objective.answered.set()
        asking.close()


def test_threads_that_hang_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(30)
    monkeypatch.setattr("kmind.runtime.objective.poller.MOST_LEFT", 2)
    told, lines, made = Told(), list[str](), []
    try:
        for _ in range(2):
            asking, objective = hanging(Told(), [], [0.0])
            made.append(objective)
            assert objective.asked.wait(30)
            asking.close()
        asking, objective = hanging(told, lines, [0.0])
        made.append(objective)
        asking.run_due()
        assert told.notices == [(Kind.NO_OBJECTIVE, 1)]
        assert "2 earlier requests hang" in lines[0]
        for each in made[:2]:
            each.answered.set()
        settle(30)
        asking._late_at = 0.0
        asking.run_due()
        assert objective.asked.wait(30)
        asking.close()
    finally:
        for each in made:
            each.answered.set()
        settle(30)


COMMAND, KNOBS = "command:/bin/true", "knobs=vm.swappiness"
SOMEBODY = 54321  # has no account
OTHER = pwd.getpwnam("daemon")


@pytest.mark.parametrize("asker", [SOMEBODY, OTHER.pw_uid, -1])
@pytest.mark.parametrize(
    "given",
    [
        {"objective": COMMAND, "user": "root"},
        {"objective": COMMAND, "user": "bin"},
        {"objective": COMMAND},  # beside a user that root set
        {"user": "root"},  # beside a command that root set
    ],
)
def test_only_root_has_commands_run_as_others(given: dict[str, str], asker: int) -> None:
    manifest = find_module("autotune").manifest
    words = {
        "objective": COMMAND,
        "user": "root",
        "better": "lower",
        "knobs": "vm.swappiness",
    } | given
    params = parse_parameters(manifest, [f"{k}={v}" for k, v in words.items()])
    with pytest.raises(PrivilegeError, match="only root may have a command run as the user"):
        check_requester(manifest, params, given, asker)
    check_requester(manifest, params, given, 0)
    # An objective that is all root's own choice is not the asker's.
    check_requester(manifest, params, {"better"}, asker)


def test_others_may_have_commands_run_as_nobody_and_as_themselves() -> None:
    manifest = find_module("autotune").manifest
    for user, asker in (("nobody", SOMEBODY), (OTHER.pw_name, OTHER.pw_uid)):
        words = (f"objective={COMMAND}", f"user={user}", "better=lower", KNOBS)
        params = parse_parameters(manifest, words)
        check_requester(manifest, params, {"objective", "user"}, asker)
    params = parse_parameters(manifest, ["objective=psi.io.some", "user=root", KNOBS])
    check_requester(manifest, params, {"objective", "user"}, SOMEBODY)  # it runs nothing
    nosuch = parse_parameters(manifest, [f"objective={COMMAND}", "user=nosuch", KNOBS])
    with pytest.raises(UsageError, match="no user"):
        check_requester(manifest, nosuch, {"objective"}, SOMEBODY)
