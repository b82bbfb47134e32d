# SPDX-License-Identifier: Apache-2.0
"""What the readahead extension does about windows: by hand, without a kernel."""

import json

import pytest
from modules.readahead_disk import KNOB, Bench, at_random, in_order

from kmind.extension import ChangeEvent


def _random_until(bench: Bench, windows: int, speed: dict[int, float], **more: int) -> None:
    for _ in range(windows):
        bench.feed(1, **at_random(speed[bench.value], bench.value, **more))


SMALL_WINS = {8192: 20.0, 16: 1300.0}
SMALL_LOSES = {8192: 20.0, 16: 5.0}
NO_DIFFERENCE = {8192: 200.0, 16: 201.0}


def test_a_gain_is_kept_and_renewed() -> None:
    bench = Bench()
    _random_until(bench, 60, SMALL_WINS)
    assert bench.value == 16
    assert bench.status()["doing"] == "keeping 16 KiB"
    kept = json.loads(next(m for m in bench.made if b"so it is kept" in m["note"])["note"])
    assert kept["evidence"]["low"] > 1.05
    assert kept["evidence"]["pairs"] >= 3
    before = len(bench.made)
    _random_until(bench, 50, SMALL_WINS)
    assert set(bench.values[before:]) == {16}  # renewals, each holding for 5 s


def test_a_loss_ends_after_one_block() -> None:
    bench = Bench()
    _random_until(bench, 30, SMALL_LOSES)
    assert bench.values == [16, 8192]
    assert bench.value == 8192


def test_no_difference_is_no_change_and_is_not_tried_again_at_once() -> None:
    bench = Bench()
    _random_until(bench, 100, NO_DIFFERENCE)
    assert bench.value == 8192
    tried = len(bench.made)
    _random_until(bench, 100, NO_DIFFERENCE)
    assert len(bench.made) == tried


def test_the_trap_is_waited_out() -> None:
    bench = Bench()
    # 1.2 GiB not yet cached, room for all of it, some 500 MB/s coming in: 2.4 s to go.
    _random_until(bench, 20, {8192: 6.0}, uncached=300_000, left=1 << 22)
    assert bench.made == []
    assert "waiting" in str(bench.status()["doing"])


def test_what_does_not_fit_is_not_waited_for() -> None:
    bench = Bench()
    _random_until(bench, 10, SMALL_WINS, uncached=300_000, left=1000)
    assert bench.values[0] == 16


def test_no_patience_no_waiting() -> None:
    bench = Bench(patience=0.0)
    _random_until(bench, 10, SMALL_WINS, uncached=300_000, left=1 << 22)
    assert bench.values[0] == 16


def test_reads_in_order_under_a_large_value_are_left_alone() -> None:
    bench = Bench()
    bench.feed(100, **in_order(10_000))
    assert bench.made == []


def test_reads_in_order_under_a_small_value_try_a_larger_one() -> None:
    bench = Bench()
    bench.extension.on_change(ChangeEvent("applied", 0, KNOB, 128))
    bench.value = 128
    bench.feed(10, **in_order(10_000))
    assert bench.values[0] == 4096


def test_a_new_phase_lets_go_at_once() -> None:
    bench = Bench()
    _random_until(bench, 60, SMALL_WINS)
    assert bench.value == 16
    bench.feed(4, **in_order(10_000))
    assert bench.value == 8192


def test_what_was_learnt_is_tried_first_on_the_next_visit() -> None:
    bench = Bench()
    _random_until(bench, 60, SMALL_WINS)
    bench.feed(20, **in_order(10_000))
    before = len(bench.made)
    _random_until(bench, 40, SMALL_WINS)
    assert bench.values[before] == 16
    assert bench.value == 16


def test_a_kept_value_is_checked_again_and_dropped_when_it_no_longer_helps() -> None:
    bench = Bench(recheck=5.0)
    _random_until(bench, 50, SMALL_WINS)
    assert bench.value == 16
    _random_until(bench, 100, {8192: 400.0, 16: 100.0})
    assert bench.value == 8192


def test_a_kept_value_that_still_helps_stays() -> None:
    bench = Bench(recheck=5.0)
    _random_until(bench, 300, SMALL_WINS)
    # It is back at the kept value most of the time, and at the end of a check.
    _random_until(bench, 10, SMALL_WINS)
    assert bench.value == 16


@pytest.mark.parametrize("verdict", ["shadowed", "advised"])
def test_observe_and_advise_say_it_once(verdict: str) -> None:
    bench = Bench(mode="observe", verdict=verdict)
    _random_until(bench, 60, SMALL_WINS)
    assert bench.values == [16]
    assert bench.value == 8192


@pytest.mark.parametrize("verdict", ["range", "rate", "busy", "emergency"])
def test_a_refusal_ends_the_trial(verdict: str) -> None:
    bench = Bench(verdict=verdict)
    _random_until(bench, 60, SMALL_WINS)
    assert bench.values == [16]
    assert verdict in str(bench.status()["doing"])


def test_canary_measures_and_keeps_nothing() -> None:
    bench = Bench(mode="canary")
    _random_until(bench, 100, SMALL_WINS)
    assert bench.value == 8192
    assert any(b"canary keeps nothing" in each["note"] for each in bench.made)


def test_an_external_change_silences_it() -> None:
    bench = Bench()
    _random_until(bench, 60, SMALL_WINS)
    bench.extension.on_change(ChangeEvent("yielded", 1, KNOB, 64))
    before = len(bench.made)
    _random_until(bench, 60, SMALL_WINS)
    assert len(bench.made) == before


def test_every_reason_is_a_sentence() -> None:
    bench = Bench(recheck=5.0)
    _random_until(bench, 150, SMALL_WINS)
    bench.feed(10, **in_order(10_000))
    for each in bench.made:
        reason = json.loads(each["note"])["reason"]
        assert reason[0].isupper() or reason[0].isdigit()
        assert reason.endswith(".")
        assert len(reason) < 300
