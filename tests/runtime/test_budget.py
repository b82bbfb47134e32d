# SPDX-License-Identifier: Apache-2.0
"""Cost of an extension to its owner: measured, bounded, shown, and ended if it does not stop."""

import os
import selectors
import time
from typing import TYPE_CHECKING, Any

import pytest

from kmind.runtime import budget
from kmind.runtime.budget import OWNER_SHARE, OwnerBudget
from kmind.runtime.instance.extension.listener import Listener
from kmind.runtime.sandbox.log_reader import LineReader

if TYPE_CHECKING:
    from conftest import Bench


class Owner:
    """A budget whose clocks go as they are told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cpu = 0.0
        self.budget = OwnerBudget(lambda: self.now, cpu=lambda: self.cpu)

    def work(self, seconds: float, cost: Any = "log") -> None:
        with self.budget.spend(cost):
            self.cpu += seconds
            self.now += seconds


def test_no_more_is_done_than_the_share_and_a_burst() -> None:
    owner = Owner()
    done = 0
    while owner.now < 100:
        if owner.budget.room:
            owner.work(0.001)
            done += 1
        else:
            owner.now += 0.001
    assert done * 0.001 == pytest.approx(1 + 100 * OWNER_SHARE, rel=0.01)


def test_the_wait_is_as_long_as_it_takes_to_have_room() -> None:
    owner = Owner()
    assert owner.budget.wait_s == 0
    owner.work(1.5)
    wait = owner.budget.wait_s
    assert wait > 0.3 / OWNER_SHARE
    owner.now += wait * 0.99
    assert not owner.budget.room
    owner.now += wait * 0.02
    assert owner.budget.room


def test_one_costly_thing_is_no_limit_exceeded() -> None:
    """A report is judged in a fraction of a second, once in a while."""
    owner = Owner()
    for _ in range(10):
        owner.work(0.5, "reports")
        for _ in range(15):
            owner.now += 1
            assert owner.budget.exceeded() == ""


def test_what_never_stops_exceeds_the_limit_and_is_named() -> None:
    owner = Owner()
    said = ""
    while not said and owner.now < 60:
        for _ in range(100):
            if owner.budget.room:
                owner.work(0.005, "actions")
            owner.now += 0.01
        said = owner.budget.exceeded()
    assert said.startswith("exceeded a limit: owner: for ")
    assert "more than 5% of kmind's own time, most of it for its actions" in said
    assert owner.now < 20


def test_the_account_adds_it_up() -> None:
    owner = Owner()
    owner.work(0.25, "log")
    owner.work(0.25, "memory")
    owner.budget.count("log_lines", 3)
    owner.budget.count("memory_writes", 1)
    assert owner.budget.account() == {
        "owner_us": 500_000,
        "owner_short_ms": 0,
        "log_lines": 3,
        "log_bytes": 0,
        "reports": 0,
        "memory_writes": 1,
    }
    owner.work(1.0)
    assert not owner.budget.room
    owner.now += 2
    assert owner.budget.account()["owner_short_ms"] == 2000


class Printer:
    """Stands in for an extension: a pipe, and what its owner read of it."""

    def __init__(self) -> None:
        self.log_fd, self.out = os.pipe()
        self.pid_fd, self._never = os.pipe()
        os.set_blocking(self.log_fd, False)
        self.heard = 0
        self.reads = 0
        self._reader = LineReader(time.monotonic, burst=1 << 20)

    def read_log(self) -> list[str]:
        self.reads += 1
        try:
            data = os.read(self.log_fd, 16384)
        except BlockingIOError:
            return []
        self.heard += len(data)
        return self._reader.feed(data)

    def handle_notes(self) -> int:
        return 0


def test_a_byte_at_a_time_wakes_nobody_for_each() -> None:
    owner, printer, said = Owner(), Printer(), list[str]()
    with selectors.DefaultSelector() as selector:
        listener = Listener(selector, owner.budget, said.append, lambda: owner.now)
        listener.watch(printer)  # type: ignore[arg-type]
        wakes = 0
        for _ in range(10_000):  # a second of it
            os.write(printer.out, b"\n")
            if selector.select(0) or owner.now >= listener.due:
                wakes += 1
                listener.listen()
            owner.now += 0.0001
        assert wakes <= 60
        assert printer.reads <= 60
        owner.now += 1
        for _ in range(5):
            if selector.select(0) or owner.now >= listener.due:
                listener.listen()
            owner.now += 0.1
        assert printer.heard == 10_000
        assert owner.budget.account()["log_bytes"] == 10_000
        # All is read, so it sleeps until something comes.
        assert listener.due == float("inf")
        assert not selector.select(0)
        os.write(printer.out, b"more\n")
        assert selector.select(1)
        listener.listen()
        assert said[-1] == "more"
        listener.unwatch()
        listener.unwatch()
        assert not selector.get_map()


def test_without_room_nothing_is_read() -> None:
    owner, printer = Owner(), Printer()
    with selectors.DefaultSelector() as selector:
        listener = Listener(selector, owner.budget, lambda line: None, lambda: owner.now)
        listener.watch(printer)  # type: ignore[arg-type]
        owner.work(2.0)
        os.write(printer.out, b"a\n" * 5000)
        listener.listen()  # what came while it had room
        heard = printer.heard
        os.write(printer.out, b"b\n" * 5000)
        assert listener.due > owner.now + 10
        assert not selector.select(0)
        listener.listen()
        assert printer.heard == heard
        owner.now = listener.due
        listener.listen()
        assert printer.heard > heard


NEWLINES = """\
import os, time
from kmind.extension import Extension


class Sample(Extension):
    def on_windows(self, windows):
        # Nothing but what costs the extension itself next to nothing.
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            try:
                os.write(1, b"\\n" * 4000)
            except OSError:
                pass

    def status(self):
        return {}
"""


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")
def test_an_extension_that_prints_newlines_costs_its_owner_little(bench: "Bench") -> None:
    bench.start("observe", extension=NEWLINES)
    assert bench.instance
    wall, cpu = time.monotonic(), time.thread_time()
    bench.run_for(5)
    seconds, used = time.monotonic() - wall, time.thread_time() - cpu
    account = bench.instance.account()
    assert account["log_bytes"] > 10_000
    assert account["log_lines"] < 1000
    assert account["owner_us"] > 1000
    assert used < 0.15 * seconds  # with what an instance costs that prints nothing


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")
def test_an_extension_that_wants_more_than_its_share_is_ended(
    bench: "Bench", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "OWNER_SHARE", 1e-4)
    monkeypatch.setattr(budget, "_BURST_S", 1e-3)
    bench.start("observe", extension=NEWLINES)
    assert bench.instance
    bench.run_until(lambda: bench.instance and bench.instance.failed)
    assert "exceeded a limit: owner: for " in bench.instance.failed
    assert "most of it for its log" in bench.instance.failed
    assert bench.instance.account()["owner_short_ms"] > 2000
