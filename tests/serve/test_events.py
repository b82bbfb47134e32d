# SPDX-License-Identifier: Apache-2.0
"""The event stream: order, loss that is told, and readers that come and go."""

import asyncio
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from sample_events import make
from serve.conftest import serve

from kmind.errors import KmindError
from kmind.serve.events import EventStream, Hub

if TYPE_CHECKING:
    from pathlib import Path

    from serve.conftest import Served


def wait_for_readers(served: "Served", count: int) -> None:
    deadline = time.monotonic() + 10
    while len(served.hub._readers) != count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_reader_gets_every_event_in_order(served: "Served") -> None:
    got: list[list[int]] = [[], [], []]

    def follow(into: list[int], **query: str) -> None:
        for event in served.client.follow(**query):
            assert event["schema"] == "kmind.event/1"
            into.append(event["seq"])
            if event["seq"] == 999:
                return

    queries: list[dict[str, str]] = [{}, {}, {"instance": "a@b"}]
    threads = [
        threading.Thread(target=follow, args=(into,), kwargs=query)
        for into, query in zip(got, queries, strict=True)
    ]
    for thread in threads:
        thread.start()
    wait_for_readers(served, 3)
    for number in range(1000):
        who = "a@b" if number % 2 else "c@d"
        served.do(lambda n=number, w=who: served.supervisor.tell("window", seq=n, instance=w))
    for thread in threads:
        thread.join(20)
    assert got == [list(range(1000)), list(range(1000)), list(range(1, 1000, 2))]
    wait_for_readers(served, 0)


def test_a_slow_reader_is_told_what_it_lost(tmp_path: "Path") -> None:
    """It takes nothing while much happens; nobody waits for it, and the counts add up."""
    total = 20_000
    with serve(tmp_path, room=100) as served:
        stream = served.client.follow()
        opened = threading.Thread(target=lambda: wait_for_readers(served, 1))
        opened.start()
        first: list[dict[str, Any]] = []
        reading = threading.Event()

        def read() -> None:
            for event in stream:
                first.append(event)
                if event["event"] == "stop":
                    return
                if len(first) == 1:
                    reading.wait(20)

        reader = threading.Thread(target=read)
        reader.start()
        opened.join()
        began = time.monotonic()
        for number in range(total):
            served.hub.publish(make("window", seq=number, features={"x" * 200: 1}))
        assert time.monotonic() - began < 10
        reading.set()
        deadline = time.monotonic() + 20
        while reader.is_alive() and time.monotonic() < deadline:
            served.hub.publish(make("stop"))
            time.sleep(0.05)
        reader.join(1)
        numbers = [each["seq"] for each in first if each["event"] == "window"]
        lost = sum(each["lost"] for each in first if each["event"] == "lost")
        assert lost > 0
        assert len(numbers) + lost >= total  # some of the last ones may be lost as well
        assert numbers == sorted(numbers)
        # What was lost is told where it would have stood.
        for before, event, after in zip(first, first[1:], first[2:], strict=False):
            if event["event"] == "lost" and "seq" in before and "seq" in after:
                assert after["seq"] - before["seq"] == event["lost"] + 1


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async def run() -> bool:
        hub = Hub(asyncio.get_running_loop())
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) > 2:
                await asyncio.sleep(3600)

        async def receive() -> Any:
            await asyncio.sleep(3600)

        stream = EventStream(hub, stuck_s=0.2)
        task = asyncio.ensure_future(stream({"type": "http"}, receive, send))
        await asyncio.sleep(0.05)
        hub.publish(make("window"))
        with pytest.raises(TimeoutError):
            await task
        return not hub._readers

    assert asyncio.run(run())


def test_there_are_not_too_many_readers(served: "Served") -> None:
    sockets = []
    for _ in range(16):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(served.path))
        one.sendall(b"GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
        sockets.append(one)
    wait_for_readers(served, 16)
    with pytest.raises(KmindError, match="16 readers follow the events already"):
        next(served.client.follow())
    for each in sockets:
        each.close()
    wait_for_readers(served, 0)


def test_the_end_of_the_daemon_ends_the_stream(tmp_path: "Path") -> None:
    events: list[dict[str, Any]] = []
    with serve(tmp_path) as served:
        reader = threading.Thread(target=lambda: events.extend(served.client.follow()))
        reader.start()
        wait_for_readers(served, 1)
        served.do(lambda: served.supervisor.tell("log", message="x"))
    reader.join(10)
    assert not reader.is_alive()
    assert [json.dumps(event["event"]) for event in events] == ['"log"']
