# SPDX-License-Identifier: Apache-2.0
"""Reactions of the readahead extension to windows: by hand, without a kernel."""

from typing import Any

import pytest
from modules.readahead_disk import Bench, at_random, in_order
from modules.readers import mixed_reads, random_reads

from kmind.modules.readahead.ladder import AGAIN_S


def test_a_kept_value_is_held_on_and_the_next_one_is_tried() -> None:
    bench = Bench(gains={(8192, 16), (16, 4)})
    bench.feed(200, **random_reads())
    assert bench.value == 4
    assert bench.proposed[:2] == [16, 4]
    bench.feed(50, **random_reads())
    assert bench.value == 4  # a hold is 5 s: without renewals it had ended


def test_each_proposal_names_its_circumstances() -> None:
    bench = Bench()
    bench.feed(10, **random_reads())
    evidence = bench.notes()[0]["evidence"]
    assert evidence["context"] == "random, mapped"
    assert evidence["pages_per_miss"] == 2000


def test_what_helps_nothing_is_not_proposed_again_for_long() -> None:
    bench = Bench(gains=set())
    bench.feed(400, **random_reads())
    assert bench.value == 8192
    assert bench.proposed[0] == 16
    assert len(bench.proposed) == len(set(bench.proposed))
    assert "nothing to try" in str(bench.status()["doing"])
    bench.now += AGAIN_S
    before = len(bench.made)
    bench.feed(10, **random_reads())
    assert bench.made[before]["value"] == 16


def test_the_trap_is_waited_out() -> None:
    bench = Bench()
    # 1.2 GiB not yet cached, room for all of it, some 500 MB/s coming in: 2.4 s to go.
    bench.feed(20, **at_random(6.0, 8192, uncached=300_000, left=1 << 22))
    assert bench.made == []
    assert "waiting" in str(bench.status()["doing"])


def test_what_does_not_fit_is_not_waited_for() -> None:
    bench = Bench()
    bench.feed(10, **random_reads(uncached=300_000, left=1000))
    assert bench.proposed == [16]


def test_no_patience_no_waiting() -> None:
    bench = Bench(patience=0.0)
    bench.feed(10, **random_reads(uncached=300_000, left=1 << 22))
    assert bench.proposed == [16]


def test_reads_in_order_under_a_large_value_are_left_alone() -> None:
    bench = Bench()
    bench.feed(100, **in_order(10_000))
    assert bench.made == []


def test_a_new_phase_lets_go_at_once() -> None:
    bench = Bench()
    bench.feed(30, **random_reads())
    assert bench.value == 16
    bench.feed(4, **in_order(10_000))
    assert bench.value == 8192


def test_a_new_phase_ends_what_is_being_measured() -> None:
    bench = Bench()
    bench.feed(7, **random_reads())
    assert bench.proposed == [16]
    bench.feed(4, **in_order(10_000))
    assert bench.proposed == [16, 8192]


def test_a_pause_does_not_end_what_is_being_measured() -> None:
    bench = Bench(takes_s=3.0, gains={(128, 4096)}, baseline=128)
    bench.feed(8, **in_order(10_000))
    bench.feed(10)
    bench.feed(25, **in_order(10_000))
    assert bench.proposed == [4096, 8192]
    assert bench.value == 4096


def test_what_is_cached_by_now_is_measured_no_more() -> None:
    bench = Bench(takes_s=3.0, gains={(128, 4096)}, baseline=128)
    bench.feed(8, **at_random(200.0, 128, uncached=300_000, left=1 << 22))
    bench.feed(5, fault_around=1e5)
    assert bench.proposed == [4096, 128]


def test_what_looks_mixed_while_it_is_measured_does_not_end_that() -> None:
    bench = Bench(takes_s=2.5)
    bench.feed(7, **random_reads())
    assert bench.proposed == [16]
    bench.feed(30, **mixed_reads())
    assert bench.value == 16
    assert 8192 not in bench.proposed
    bench.feed(4, **in_order(10_000))
    assert bench.value == 8192


def test_what_others_read_from_memory_does_not_hide_reads_at_random() -> None:
    bench = Bench()
    others = {"fault_around": 300, "around_sequential": 200, "reads": 100, "read_sequential": 60}
    bench.feed(30, **random_reads() | others)
    assert bench.notes()[0]["evidence"]["context"] == "random, mapped"
    assert bench.value == 16


def test_the_best_value_is_proposed_first_on_the_next_visit() -> None:
    bench = Bench(gains={(8192, 16), (16, 4), (8192, 4)})
    bench.feed(200, **random_reads())
    bench.feed(20, **in_order(10_000))
    assert bench.value == 8192
    bench.owner = "remembers"
    before = len(bench.made)
    bench.feed(7, **random_reads())
    assert bench.made[before]["value"] == 4
    assert bench.value == 4


def test_a_restart_forgets_neither_what_is_best_nor_what_was_in_vain() -> None:
    bench = Bench(gains={(8192, 16), (16, 4), (8192, 4)})
    bench.feed(200, **random_reads())
    assert bench.proposed == [16, 4, 8, 4]
    later = Bench(owner="remembers", memory=bench.memory)
    later.feed(200, **random_reads())
    assert later.proposed == [4]
    assert "best before" in later.notes()[0]["reason"]
    assert later.value == 4


def test_a_restart_goes_on_waiting() -> None:
    bench = Bench(gains=set())
    bench.feed(400, **random_reads())
    later = Bench(gains=set(), memory=bench.memory)
    later.feed(200, **random_reads())
    assert later.made == []
    assert "nothing to try" in str(later.status()["doing"])
    later.now += AGAIN_S
    later.feed(10, **random_reads())
    assert later.proposed == [16]


@pytest.mark.parametrize(
    "memory",
    [
        *(None, 7, [], {}, {"version": 1}, {"version": 2, "ladders": {}}),
        *({"version": 1, "ladders": x} for x in (3, [], {"random, mapped": None})),
        *(
            {"version": 1, "ladders": {"random, mapped": x}}
            for x in (
                {"best": "16", "tried": 5},
                {"best": -4, "tried": [3, [16], ["x", 1, 2], [16, "now", None]]},
                {"best": 1 << 40, "tried": {"16": 0}},
            )
        ),
    ],
)
def test_a_memory_that_makes_no_sense_is_none(memory: Any) -> None:
    bench = Bench(memory=memory)
    bench.feed(30, **random_reads())
    assert bench.proposed[0] == 16
    assert bench.value == 16


def test_what_fits_in_memory_is_another_context() -> None:
    bench = Bench(gains=set(), patience=0.0)
    bench.feed(10, **random_reads(uncached=300_000, left=1 << 22))
    assert bench.notes()[0]["evidence"]["context"] == "random, mapped, fits"
    bench.feed(100, **random_reads(uncached=300_000, left=1 << 22))
    before = len(bench.made)
    bench.feed(10, **random_reads())
    assert bench.made[before]["value"] == 16
    assert bench.notes()[before]["evidence"]["context"] == "random, mapped"


def test_what_fits_in_memory_is_first_tried_to_be_read_sooner() -> None:
    bench = Bench(gains={(128, 4096)}, baseline=128)
    bench.feed(30, **at_random(200.0, 128, uncached=300_000, left=1 << 22))
    assert bench.proposed[0] == 4096
    assert "fits in memory" in bench.notes()[0]["reason"]
    assert bench.value == 4096


def test_files_that_are_read_one_by_one_are_measured_though_each_is_soon_cached() -> None:
    """A table is scanned backwards: a file is cached in 0.3 s, and then comes the next one."""
    bench = Bench(gains={(128, 4096)}, baseline=128)
    for _ in range(15):
        for uncached in (17_000, 12_000, 7_000):
            bench.feed(1, **at_random(200.0, 128, uncached=uncached, left=1 << 22))
    assert bench.proposed[0] == 4096
    assert bench.value == 4096
    single = Bench(gains={(128, 4096)}, baseline=128)
    for uncached in (17_000, 12_000, 7_000, 2_000):
        single.feed(1, **at_random(200.0, 128, uncached=uncached, left=1 << 22))
    assert single.proposed == []


def test_what_is_dropped_when_measured_again_is_let_go() -> None:
    bench = Bench()
    bench.feed(300, **random_reads())
    assert bench.value == 16
    bench.value = 8192
    bench.tell("dropped", len(bench.made), 16, "loss")
    before = len(bench.made)
    bench.feed(50, **random_reads())
    assert 16 not in [each["value"] for each in bench.made[before:]]


@pytest.mark.parametrize("verdict", ["shadowed", "advised"])
def test_observe_and_advise_say_it_once(verdict: str) -> None:
    bench = Bench(mode="observe", verdict=verdict)
    bench.feed(60, **random_reads())
    assert [each["value"] for each in bench.made] == [16]
    assert bench.value == 8192


def test_mode_auto_after_advise_proposes_again_under_the_same_load() -> None:
    bench = Bench(mode="advise", verdict="advised")
    bench.feed(60, **random_reads())
    assert bench.value == 8192
    bench.verdict = "approved"
    bench.context.mode = "auto"
    bench.extension.on_mode("auto")
    bench.feed(30, **random_reads())
    assert bench.value == 16


@pytest.mark.parametrize("verdict", ["range", "rate", "busy", "emergency"])
def test_a_refusal_is_taken_for_an_answer(verdict: str) -> None:
    bench = Bench(verdict=verdict)
    bench.feed(7, **random_reads())
    assert [each["value"] for each in bench.made] == [16]
    assert verdict in str(bench.status()["doing"])
    bench.feed(100, **random_reads())
    assert [each["value"] for each in bench.made].count(16) == 1


def test_canary_keeps_nothing_and_repeats_nothing() -> None:
    bench = Bench(mode="canary", owner="canary")
    bench.feed(100, **random_reads())
    assert bench.value == 8192
    assert bench.proposed == [16]


def test_an_experiment_that_was_cut_short_is_made_again_later() -> None:
    bench = Bench()
    bench.feed(7, **random_reads())
    bench._trial = None
    bench.tell("dropped", 1, 16, "aborted")
    bench.feed(40, **random_reads())
    assert [each["value"] for each in bench.made] == [16]
    bench.feed(30, **random_reads())
    assert bench.value == 16


def test_what_the_owner_refuses_to_try_leaves_what_stands() -> None:
    bench = Bench()
    while bench.value != 16 or bench.made[-1]["value"] == 16:
        bench.feed(1, **random_reads())  # until a neighbour of 16 is proposed
    refused, before = bench.made[-1]["value"], len(bench.made)
    bench._trial = None
    bench.tell("failed", len(bench.made), 16)  # the event has the current value
    bench.feed(1, **random_reads())
    assert bench.made[-1]["value"] == 16
    bench.feed(60, **random_reads())
    assert refused not in [each["value"] for each in bench.made[before:]]
    assert bench.value == 16


def test_a_knob_that_another_holds_says_nothing_of_the_value() -> None:
    bench = Bench(verdict="lease")
    bench.feed(40, **random_reads())
    assert bench.proposed == [16]
    again = Bench(memory=bench.memory)
    again.feed(40, **random_reads())
    assert again.value == 16


def test_a_refused_value_is_left_alone_over_restarts() -> None:
    bench = Bench(verdict="range")
    bench.feed(40, **random_reads())
    again = Bench(memory=bench.memory)
    again.feed(40, **random_reads())
    assert 16 in bench.proposed
    assert 16 not in again.proposed


def test_an_external_change_silences_it() -> None:
    bench = Bench()
    bench.feed(30, **random_reads())
    bench.tell("yielded", 1, 64)
    before = len(bench.made)
    bench.feed(60, **random_reads())
    assert len(bench.made) == before


def test_an_old_undoing_does_not_end_a_new_proposal() -> None:
    bench = Bench()
    bench.feed(7, **random_reads())
    bench.tell("undone", 0, 8192)
    bench.feed(20, **random_reads())
    assert bench.value == 16


def test_what_a_deployed_model_says_is_tried_first() -> None:
    bench = Bench(gains={(8192, 128)})
    bench.feed(30, **random_reads(), proposal=2)
    assert bench.proposed[0] == 128
    assert "model says so" in bench.notes()[0]["reason"]
    assert bench.value == 128


@pytest.mark.parametrize("said", [(0, 0), (5, 5), (1 << 40, 1 << 40), (2, 3)])
def test_a_model_that_says_nothing_of_use_is_not_asked(said: tuple[int, int]) -> None:
    bench = Bench()
    for number in range(20):
        bench.feed(1, **random_reads(), proposal=said[number % 2])
    assert bench.proposed[0] == 16


@pytest.mark.parametrize("text", ["16,many", "", "-4", "1.5", "16,,4"])
def test_classes_that_are_no_numbers_silence_the_model(text: str) -> None:
    bench = Bench(model_kb=text)
    assert "model_kb" in bench.log[0]
    bench.feed(10, **random_reads(), proposal=1)
    assert bench.proposed == [16]
    assert "model" not in bench.notes()[0]["reason"]


def test_every_reason_is_a_sentence() -> None:
    bench = Bench(gains={(8192, 16), (16, 4)})
    bench.feed(150, **random_reads())
    bench.feed(10, **in_order(10_000))
    assert "better still" in bench.notes()[bench.first(4)]["reason"]
    for note in bench.notes():
        reason = note["reason"]
        assert reason[0].isupper() or reason[0].isdigit()
        assert reason.endswith(".")
        assert len(reason) < 300
