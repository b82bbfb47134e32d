# SPDX-License-Identifier: Apache-2.0
"""Calls from other threads: each batch ends, whoever goes on asking."""

import select
import time
from concurrent.futures import Future

import pytest

from kmind.errors import KmindError
from kmind.runtime.supervisor.mailbox import Mailbox


def readable(calls: Mailbox) -> bool:
    return bool(select.select([calls.fd], [], [], 0)[0])


def test_batch_ends_though_each_answer_is_followed_by_a_new_call() -> None:
    calls = Mailbox()
    answered: list[int] = []

    def again(done: Future[int]) -> None:
        answered.append(done.result())
        if len(answered) < 100_000:  # so that a batch without an end fails, and does not hang
            calls.submit(lambda: 1).add_done_callback(again)

    for _ in range(64):
        calls.submit(lambda: 1).add_done_callback(again)
    calls.woken()
    calls.run(60.0)
    assert len(answered) == 64
    assert readable(calls)
    calls.close()


def test_batch_ends_with_its_time_and_the_rest_waits_for_the_next() -> None:
    calls = Mailbox()
    slow = [calls.submit(lambda: time.sleep(0.02)) for _ in range(8)]
    for left in range(7, -1, -1):
        assert readable(calls)
        calls.woken()
        calls.run(0.001)
        assert sum(not each.done() for each in slow) == left
    assert not readable(calls)
    calls.close()


def test_only_calls_that_may_change_something_make_others_look_again() -> None:
    changes: list[int] = []
    calls = Mailbox(lambda: changes.append(1))

    def fail() -> None:
        raise KmindError("no")

    calls.submit(lambda: 1, reads=True)
    calls.run(1.0)
    assert not changes
    calls.submit(lambda: 1)
    failed = calls.submit(fail)
    calls.run(1.0)
    assert len(changes) == 4  # before and after each
    assert isinstance(failed.exception(0), KmindError)
    calls.close()
    with pytest.raises(KmindError, match="is stopping"):
        calls.submit(lambda: 1).result(0)
