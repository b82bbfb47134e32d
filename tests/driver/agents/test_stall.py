# SPDX-License-Identifier: Apache-2.0
"""A driver that beats its heart and leaves a request unanswered is caught; a slow one is not."""

from __future__ import annotations

import mmap
import os
import time

import pytest
from driver.accounts import Held, held_disk, load_agent, until, waiting_reads

from kmind.agent.types import Cause, Mode

pytestmark = pytest.mark.kernel("libbpf", "bpf_timer", "syscall", "tp_fuse")


def test_a_driver_that_beats_and_does_not_answer_ends_in_emergency() -> None:
    driver = Held()
    with held_disk(driver) as disk:
        agent = load_agent(disk.connection.number, stall_ms=400)
        try:
            agent.set_mode(Mode.AUTO)
            agent.start()
            driver.hold = True
            began = time.monotonic()
            with waiting_reads(disk.path, 1):
                until(lambda: agent.mode == Mode.EMERGENCY)
                assert time.monotonic() - began >= 0.4
                modes = [(a.mode, a.cause) for a in agent.poll(0) if a.kind == "mode"]
                assert modes == [(Mode.AUTO, Cause.ASKED), (Mode.EMERGENCY, Cause.UNANSWERED)]
                assert agent.cause == Cause.UNANSWERED
                # Its time counts anew from here, and it is caught again.
                again = time.monotonic()
                agent.set_mode(Mode.AUTO)
                assert agent.cause == Cause.ASKED
                until(lambda: agent.mode == Mode.EMERGENCY)
                assert time.monotonic() - again >= 0.4
                driver.release()
            agent.set_mode(Mode.AUTO)
            time.sleep(0.6)
            assert agent.mode == Mode.AUTO
        finally:
            agent.close()


def test_a_driver_that_answers_slowly_is_left_alone() -> None:
    driver = Held(seconds=0.1)
    with held_disk(driver) as disk:
        agent = load_agent(disk.connection.number, stall_ms=5000)
        try:
            agent.set_mode(Mode.AUTO)
            agent.start()
            with mmap.mmap(-1, 4096) as buffer:
                descriptor = os.open(disk.path, os.O_RDONLY | os.O_DIRECT)
                began = time.monotonic()
                # In sum they take longer than a single one may.
                for block in range(60):
                    os.preadv(descriptor, [buffer], block * 4096)
                assert time.monotonic() - began > 5.5
                os.close(descriptor)
            assert agent.mode == Mode.AUTO
            assert agent.cause == Cause.ASKED
        finally:
            agent.close()


def test_without_a_limit_nothing_is_too_old() -> None:
    driver = Held()
    with held_disk(driver) as disk:
        agent = load_agent(disk.connection.number)
        try:
            agent.set_mode(Mode.AUTO)
            agent.start()
            driver.hold = True
            with waiting_reads(disk.path, 1):
                time.sleep(0.5)
                assert agent.mode == Mode.AUTO
                driver.release()
        finally:
            agent.close()


def test_the_watch_over_the_heart_goes_on_beside() -> None:
    with held_disk(Held()) as disk:
        agent = load_agent(disk.connection.number, stall_ms=60_000, deadline_s=0.2)
        try:
            agent.set_mode(Mode.AUTO)
            agent.start()
            until(lambda: agent.mode == Mode.EMERGENCY)
            assert agent.cause == Cause.STALLED
        finally:
            agent.close()
