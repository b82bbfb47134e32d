# SPDX-License-Identifier: Apache-2.0
"""Clients in a loop leave the owner its time."""

import asyncio
import itertools
import threading
from collections import defaultdict
from typing import Any

import pytest

from kmind.errors import UsageError
from kmind.serve._pace import Pace, Paced


class Clock:
    """Time by the clock, and time of the thread, which is busy for part of it."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0

    def pass_by(self, seconds: float, busy: float = 0.0) -> None:
        self.now += seconds
        self.cpu += busy


def test_a_thread_that_is_always_busy_gets_its_share() -> None:
    clock = Clock()
    pace = Pace(0.2, 0.5, now=lambda: clock.now, cpu=lambda: clock.cpu)
    for _ in range(10_000):  # requests of a millisecond each, one after the other
        clock.pass_by(pace.wait_s())
        clock.pass_by(0.001, 0.001)
    assert clock.cpu / clock.now == pytest.approx(0.2, abs=0.015)


def test_who_asks_now_and_then_never_waits() -> None:
    clock = Clock()
    pace = Pace(0.2, 0.5, now=lambda: clock.now, cpu=lambda: clock.cpu)
    for _ in range(1000):
        clock.pass_by(0.01, 0.0015)
        assert pace.wait_s() == 0
    clock.pass_by(3600)
    for _ in range(100):  # and may then ask a hundred times at once
        clock.pass_by(0.001, 0.001)
        assert pace.wait_s() == 0


def test_requests_wait_in_line() -> None:
    """Not all of them at once, to come together at the end."""
    clock = Clock()
    pace = Pace(0.2, 0.0, now=lambda: clock.now, cpu=lambda: clock.cpu)
    answered: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        clock.pass_by(0.001, 0.001)
        answered.append(clock.now)

    async def all_of_them() -> None:
        paced = Paced(app, pace)
        await asyncio.gather(*(paced({"type": "http"}, None, None) for _ in range(5)))  # type: ignore[arg-type]

    async def sleep(seconds: float) -> None:
        clock.pass_by(seconds)
        await real(0)

    real = asyncio.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kmind.serve._pace.asyncio.sleep", sleep)
        asyncio.run(all_of_them())
    gaps = [later - earlier for earlier, later in itertools.pairwise(answered)]
    assert len(answered) == 5
    assert min(gaps) >= 0.001
    assert answered[-1] >= 0.001 / 0.2 * 4


def test_what_another_thread_does_is_paid_for() -> None:
    now, cpu = [0.0], defaultdict[int, float](float)
    pace = Pace(0.2, 0.0, now=lambda: now[0], cpu=lambda: cpu[threading.get_ident()])
    begun: list[float] = []
    working = threading.Lock()

    def work(number: int) -> int:
        assert working.acquire(blocking=False)
        begun.append(now[0])
        now[0] += 0.02
        cpu[threading.get_ident()] += 0.02
        working.release()
        if number == 3:
            raise UsageError("no")
        return number

    async def all_of_them() -> list[Any]:
        calls = (pace.run(work, number) for number in range(5))
        return await asyncio.gather(*calls, return_exceptions=True)

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kmind.serve._pace.asyncio.sleep", sleep)
        found = asyncio.run(all_of_them())
    assert [each for each in found if isinstance(each, int)] == [0, 1, 2, 4]
    assert isinstance(found[3], UsageError)
    gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert gaps == pytest.approx([0.02 / 0.2] * 4)
