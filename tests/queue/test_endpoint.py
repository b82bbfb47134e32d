# SPDX-License-Identifier: Apache-2.0
"""Queues, windows, doorbell and watchdog: the same on both agents, and on the real kernel."""

import random
import threading
import time

import numpy as np
from agents import (
    header_of,
    sleep_on,
)
from ring_agents import LONG_S, SLOTS, Make, reader_of, until

from kmind.abi import layout
from kmind.agent.types import Cause, Grant, Mode, Verdict
from kmind.queue import Reader, peek_windows, read_status

KIND = layout.KIND["MODULE"]
IDLE_NS = layout.LIMIT["IDLE_MS"] * 1_000_000


def take_all(reader: Reader) -> list[int]:
    values: list[int] = []
    while len(batch := reader.peek()):
        values += batch["value"].tolist()
        reader.release(len(batch))
    return values


def test_batches_are_views_of_the_arena(make: Make, one_cpu: int) -> None:
    agent = make()
    _, reader = reader_of(agent, one_cpu)
    assert agent.work(pushes=3, kind=KIND, subject=7, value=40) == 3
    batch = reader.peek()
    assert np.shares_memory(batch, agent.arena)
    assert batch["value"].tolist() == [40, 41, 42]
    assert batch["seq"].tolist() == [0, 1, 2]
    assert set(batch["kind"]) == {KIND}
    assert set(batch["subject"]) == {7}
    assert len(reader.peek(2)) == 2


def test_a_full_ring_drops_the_newest(make: Make, one_cpu: int) -> None:
    agent = make()
    _, reader = reader_of(agent, one_cpu)
    assert agent.work(pushes=100, kind=KIND) == SLOTS
    account = agent.account()
    assert (account["pushed"], account["dropped"]) == (SLOTS, 36)
    assert take_all(reader) == list(range(SLOTS))
    assert reader.lost == 0  # nothing came after the gap so far
    agent.work(pushes=1, kind=KIND, value=100)
    assert take_all(reader) == [100]
    assert reader.lost == 36
    assert account["bad_tail"] == 0


def test_a_reader_that_comes_later_counts_from_its_first_record(make: Make, one_cpu: int) -> None:
    agent = make()
    _, first = reader_of(agent, one_cpu)
    agent.work(pushes=100, kind=KIND)
    take_all(first)
    _, second = reader_of(agent, one_cpu)
    agent.work(pushes=2, kind=KIND)
    take_all(second)
    assert second.lost == 0  # what was dropped before its time is not its loss
    agent.work(pushes=SLOTS + 5, kind=KIND)
    take_all(second)
    agent.work(pushes=1, kind=KIND)
    take_all(second)
    assert second.lost == 5


def test_a_batch_ends_where_the_ring_does(make: Make, one_cpu: int) -> None:
    agent = make()
    _, reader = reader_of(agent, one_cpu)
    agent.work(pushes=48, kind=KIND)
    assert len(take_all(reader)) == 48
    agent.work(pushes=32, kind=KIND, value=48)
    first = reader.peek()
    assert first["value"].tolist() == list(range(48, 64))
    reader.release(len(first))
    assert reader.peek()["value"].tolist() == list(range(64, 80))


def test_whatever_is_lost_is_counted(make: Make, one_cpu: int) -> None:
    agent = make()
    _, reader = reader_of(agent, one_cpu)
    choose = random.Random(1)
    tried, seen = 0, []
    for _ in range(400):
        count = choose.randrange(SLOTS)
        agent.work(pushes=count, kind=KIND, value=tried)
        tried += count
        batch = reader.peek()[: choose.randrange(SLOTS)]
        seen += batch["value"].tolist()
        reader.release(len(batch))
    seen += take_all(reader)
    agent.work(pushes=1, kind=KIND, value=tried)
    seen += take_all(reader)
    assert seen == sorted(set(seen))
    assert reader.lost == agent.account()["dropped"] == tried + 1 - len(seen) > 0
    assert reader.reordered == 0


def test_a_senseless_index_costs_records_and_no_more(make: Make, one_cpu: int) -> None:
    agent = make()
    endpoint, reader = reader_of(agent, one_cpu)
    ring = endpoint.geometry.rings + layout.RING.itemsize * endpoint.records.index(reader)
    tail = agent.arena[ring : ring + layout.RING.itemsize].view(layout.RING)["tail"]
    agent.work(pushes=10, kind=KIND)
    tail[0] = 11
    assert agent.work(pushes=5, kind=KIND) == 0
    assert agent.account()["bad_tail"] == 5
    tail[0] = 0
    assert agent.work(pushes=5, kind=KIND, value=10) == 5
    assert take_all(reader) == list(range(15))
    agent.work(pushes=1, kind=KIND)
    take_all(reader)
    assert reader.lost == 5


def test_windows_add_up(make: Make, one_cpu: int) -> None:
    agent = make(tick_s=0.001, window_s=0.002)
    endpoint, _ = reader_of(agent, one_cpu)
    agent.start()
    counted, seen = 0, np.zeros(0, layout.WINDOW)
    while len(seen) < 40:
        counted += 3
        agent.work(count=3, gauge=1 << 63 | counted)
        batch = endpoint.windows.peek()
        assert len(batch) == 0 or np.shares_memory(batch, agent.arena)
        seen = np.concatenate([seen, batch])
        endpoint.windows.release(len(batch))
    last = len(seen)
    while seen["value"][:, 0].sum() < counted:
        until(lambda: len(endpoint.windows))
        seen = np.concatenate([seen, batch := endpoint.windows.peek()])
        endpoint.windows.release(len(batch))
    assert seen["value"][:, 0].sum() == counted
    assert seen["value"][-1, 1] == 1 << 63 | counted  # a gauge is what it is
    assert seen["seq"].tolist() == list(range(len(seen)))
    assert (seen["start_ns"][1:] == seen["end_ns"][:-1]).all()
    assert (seen["end_ns"] - seen["start_ns"] >= 2_000_000).all()
    assert last >= 40
    assert endpoint.windows.lost == 0


def test_windows_wait_for_a_slow_reader(make: Make, one_cpu: int) -> None:
    """No window is dropped: the last one goes on until there is room."""
    most = layout.LIMIT["WINDOW_SLOTS"]
    agent = make(tick_s=0.0005, window_s=0.0005)
    endpoint, _ = reader_of(agent, one_cpu)
    agent.start()

    def filled() -> bool:
        agent.work(count=1)  # or it would not close a window
        return agent.account()["windows"] == most

    until(filled)
    before = agent.account()
    agent.work(count=5)
    until(lambda: agent.account()["ticks"] > before["ticks"] + 10)
    assert agent.account()["windows"] == most
    assert agent.account()["busy"] > before["busy"], "that there is traffic is counted all the same"
    seen = endpoint.windows.peek().copy()
    assert len(seen) == most
    told = int(seen["value"][:, 0].sum())
    assert (peek_windows(agent.arena, agent.geometry, most, 3) == seen[-3:]).all()
    endpoint.windows.release(most)
    until(lambda: len(endpoint.windows))
    after = endpoint.windows.peek()[0]
    assert after["value"][0] + told == agent.feature(0)
    assert after["value"][0] >= 5
    assert after["start_ns"] == seen[-1]["end_ns"]
    assert after["end_ns"] - after["start_ns"] >= 10 * 500_000
    assert after["seq"] == most


def test_an_empty_window_runs_on(make: Make, one_cpu: int) -> None:
    """An idle reader is woken once a second; what then moves is told as soon as ever."""
    agent = make(tick_s=0.002, window_s=0.02)
    endpoint, _ = reader_of(agent, one_cpu)
    agent.start()
    agent.work(gauge=3)  # no counter
    until(lambda: len(endpoint.windows))
    (first,) = endpoint.windows.peek()
    assert first["end_ns"] - first["start_ns"] >= IDLE_NS
    assert first["value"][1] == 3
    endpoint.windows.release(1)
    agent.work(count=1)
    until(lambda: len(endpoint.windows))
    (second,) = endpoint.windows.peek()
    assert second["value"][0] == 1
    assert second["start_ns"] == first["end_ns"]
    assert second["end_ns"] - second["start_ns"] < IDLE_NS


def test_sleeping_until_the_doorbell_rings(make: Make, one_cpu: int) -> None:
    agent = make()
    endpoint, reader = reader_of(agent, one_cpu)
    began = time.monotonic()
    assert not endpoint.wait(0.05)
    assert time.monotonic() - began >= 0.05
    timer = threading.Timer(0.05, lambda: agent.work(pushes=1, kind=KIND))
    timer.start()
    assert endpoint.wait(LONG_S)
    timer.join()
    assert agent.account()["wakeups"] == 1
    # With something to read it does not sleep, and a reader that is awake is not rung for.
    assert endpoint.wait(LONG_S)
    agent.work(pushes=1, kind=KIND)
    assert agent.account()["wakeups"] == 1
    assert len(reader.peek()) >= 1


def test_a_thousand_short_sleeps_lose_nothing(make: Make, one_cpu: int) -> None:
    agent = make()
    endpoint, _ = reader_of(agent, one_cpu)
    agent.start()
    stop = threading.Event()
    tried = 0

    def produce() -> None:
        nonlocal tried
        choose = random.Random(2)
        while not stop.is_set():
            agent.work(pushes=1, kind=KIND, value=tried)
            tried += 1
            time.sleep(choose.random() * 0.0005)

    producer = threading.Thread(target=produce)
    producer.start()
    seen: list[int] = []
    sleeps = 0
    try:
        while sleeps < 1000:
            sleeps += not endpoint.waiting()
            sleep_on(endpoint)
            for ring in endpoint.records:  # the producer runs on any CPU
                seen += take_all(ring)
            windows = endpoint.windows.peek()
            endpoint.windows.release(len(windows))
    finally:
        stop.set()
        producer.join()
    for ring in endpoint.records:
        seen += take_all(ring)
    assert sorted(seen) == list(range(tried))
    assert sum(ring.lost for ring in endpoint.records) == agent.account()["dropped"] == 0


def test_an_extension_that_stalls_ends_in_emergency(make: Make, one_cpu: int) -> None:
    agent = make(deadline_s=0.5, tick_s=0.002)
    endpoint, _ = reader_of(agent, one_cpu)
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    agent.set_mode(Mode.AUTO)
    agent.start()
    for _ in range(40):
        endpoint.beat()
        time.sleep(0.02)
    assert endpoint.mode == Mode.AUTO
    # From here on nobody helps: no beat, and no call of the owner's.
    until(lambda: header_of(agent)["mode"] == Mode.EMERGENCY)
    modes = [(a.mode, a.cause) for a in agent.poll(1) if a.kind == "mode"]
    assert modes == [(Mode.AUTO, Cause.ASKED), (Mode.EMERGENCY, Cause.STALLED)]
    told = [batch for ring in endpoint.records for batch in [ring.peek()] if len(batch)]
    kinds = np.concatenate(told)
    kinds = kinds[kinds["kind"] == layout.KIND["MODE"]]
    assert sorted(kinds["value"].tolist()) == [Mode.AUTO, Mode.EMERGENCY]
    # Neither life nor a good recommendation leads out of it.
    for _ in range(5):
        endpoint.beat()
        time.sleep(0.01)
    now = time.monotonic_ns()
    words = {"type": 1, "hold_ms": 1, "expires_ns": now + 10**11}
    assert endpoint.cq.submit(1, 1, 5, **words) == 1
    until(lambda: endpoint.cq.waiting == 0 or endpoint.cq.answers() != [])
    assert [a.verdict for a in agent.poll(1)] == [Verdict.EMERGENCY]
    # The owner's call does.
    agent.set_mode(Mode.AUTO)
    endpoint.beat()
    assert endpoint.cq.submit(1, 1, 5, **words) == 2
    until(lambda: endpoint.cq.answers() == [(2, Verdict.APPROVED)])


def test_notices_and_status(make: Make, one_cpu: int) -> None:
    agent = make()
    endpoint, reader = reader_of(agent, one_cpu)
    agent.set_mode(Mode.OBSERVE)
    agent.notify(layout.KIND["UNDONE"], 9, -5)
    mode, undone = reader.peek()
    assert (mode["kind"], mode["value"], mode["subject"]) == (1, Mode.OBSERVE, Cause.ASKED)
    assert (undone["kind"], undone["subject"]) == (layout.KIND["UNDONE"], 9)
    assert undone["value"].astype(np.int64) == -5
    endpoint.set_status(b"reading")
    assert read_status(agent.arena, agent.geometry) == b"reading"


def test_closing_twice(make: Make, one_cpu: int) -> None:
    agent = make()
    agent.start()
    agent.close()
    agent.close()
