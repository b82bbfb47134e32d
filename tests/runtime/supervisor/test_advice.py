# SPDX-License-Identifier: Apache-2.0
"""Advice: one number for good, decided once, done and undone through its doer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kmind.errors import KmindError, KnobError, UsageError
from kmind.runtime.supervisor.advice import ADVICE_S, AdviceStore


class Doer:
    """Takes down what it was told to do."""

    def __init__(self) -> None:
        self.applied: list[Mapping[str, Any]] = []
        self.undone: list[int] = []
        self.error: KmindError | None = None

    def apply_advice(self, advice: Mapping[str, Any]) -> int:
        if self.error:
            raise self.error
        self.applied.append(advice)
        return 100 + len(self.applied)

    def undo_advice(self, change: int) -> str:
        if self.error:
            raise self.error
        self.undone.append(change)
        return "done"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def doer() -> Doer:
    return Doer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, doer: Doer, clock: Clock) -> Iterator[AdviceStore]:
    opened = AdviceStore(tmp_path / "advice.db", doer, now=clock)
    yield opened
    opened.close()


def note(store: AdviceStore, value: int | str = 512, **words: Any) -> int | None:
    return store.note(
        **{
            "instance": "sample@vda",
            "knob": "block.read_ahead_kb",
            "target": "vda",
            "value": value,
            "current": 128,
            "verdict": "advised",
            "reason": "Random reads.",
            "evidence": {"windows": 3, "gain": 0.25},
            "command": "echo 512 > /sys/block/vda/queue/read_ahead_kb",
            "rec_id": 1,
            **words,
        }
    )


def test_it_holds_what_an_admin_wants_to_know(store: AdviceStore, clock: Clock) -> None:
    assert note(store) == 1
    (advice,) = store.list()
    assert advice == store.get("1")
    assert advice["id"] == "1"
    assert (advice["state"], advice["value"], advice["current"]) == ("open", 512, 128)
    assert advice["evidence"] == {"windows": 3, "gain": 0.25}
    assert advice["predicted"] == 0.25
    assert advice["command"].startswith("echo 512")
    assert (advice["first"], advice["expires"]) == (clock.now, clock.now + ADVICE_S)


def test_the_same_again_is_the_same_row(store: AdviceStore, clock: Clock) -> None:
    first = note(store)
    for turn in range(100):
        clock.now += 1
        assert note(store, reason=f"turn {turn}", rec_id=turn) == first
    (advice,) = store.list()
    assert 15 < advice["count"] < 25  # not each of them costs a write
    assert advice["expires"] > clock.now + ADVICE_S - 6
    assert advice["reason"].startswith("turn 9")
    assert note(store, 256) == 2
    assert note(store, instance="other@vda") == 3
    assert [each["id"] for each in store.list()] == ["3", "2", "1"]


def test_numbers_survive(tmp_path: Path, doer: Doer) -> None:
    for turn in range(1, 4):
        store = AdviceStore(tmp_path / "advice.db", doer)
        assert note(store, turn) == turn
        assert note(store, 1) == 1
        store.close()


def test_applied_and_undone(store: AdviceStore, doer: Doer) -> None:
    note(store)
    assert store.apply("1")["state"] == "applied"
    assert doer.applied[0]["value"] == 512
    assert store.applied() == {101: "1"}
    with pytest.raises(KmindError, match="advice 1 is applied, so it cannot be applied"):
        store.apply("1")
    with pytest.raises(KmindError, match="cannot be rejected"):
        store.reject("1")
    done = store.undo("1")
    assert (done["state"], done["remark"]) == ("undone", "done")
    assert doer.undone == [101]
    with pytest.raises(KmindError, match="cannot be undone"):
        store.undo("1")
    assert note(store) == 2


def test_what_cannot_be_done_stays_open(store: AdviceStore, doer: Doer) -> None:
    note(store)
    doer.error = KnobError("the kernel says no")
    with pytest.raises(KnobError, match="says no"):
        store.apply("1")
    assert store.get("1")["state"] == "open"
    doer.error = None
    store.apply("1")
    doer.error = KnobError("the kernel says no")
    with pytest.raises(KnobError):
        store.undo("1")
    assert store.get("1")["state"] == "applied"


def test_what_cannot_be_written_down_is_undone_at_once(store: AdviceStore, doer: Doer) -> None:
    """Or it would stay open and stand, and nothing could put it back."""
    number = str(note(store))
    act = doer.apply_advice

    def break_the_file(advice: Mapping[str, Any]) -> int:
        store._db.execute("PRAGMA query_only = 1")
        return act(advice)

    doer.apply_advice = break_the_file  # type: ignore[method-assign]
    with pytest.raises(KmindError):
        store.apply(number)
    assert doer.undone == [101]
    store._db.execute("PRAGMA query_only = 0")
    assert store.get(number)["state"] == "open"


def test_undone_by_others(store: AdviceStore) -> None:
    note(store)
    store.apply("1")
    store.undone(999, "another's")
    assert store.get("1")["state"] == "applied"
    store.undone(101, "set to 64 by somebody else")
    assert store.get("1")["remark"] == "set to 64 by somebody else"
    assert store.get("1")["state"] == "undone"


def test_rejected_is_not_asked_again_for_a_day(store: AdviceStore, clock: Clock) -> None:
    note(store)
    store.reject("1")
    clock.now += 3600 * 23
    assert note(store) is None
    assert note(store, 256) == 2
    clock.now += 3600 * 2
    assert note(store) == 3
    assert [each["state"] for each in store.list()] == ["open", "expired", "rejected"]


def test_it_expires(store: AdviceStore, clock: Clock) -> None:
    note(store)
    clock.now += ADVICE_S + 1
    assert store.get("1")["state"] == "expired"
    with pytest.raises(KmindError, match="advice 1 is expired"):
        store.apply("1")
    assert note(store) == 2


def test_it_expires_in_time_though_the_clock_was_set_back(store: AdviceStore, clock: Clock) -> None:
    note(store)
    clock.now -= 86400
    assert store.list()[0]["state"] == "open"
    clock.now += ADVICE_S + 1
    assert store.list()[0]["state"] == "expired"


def test_a_clock_set_back_delays_no_advice(store: AdviceStore, clock: Clock) -> None:
    for value in range(1, 40):
        note(store, value)
    clock.now -= 86400
    first = note(store, 1)
    assert first is not None
    assert store.get(str(first))["last"] == clock.now
    note(store, 1000)
    clock.now += 6
    assert note(store, 1001) is not None


def test_refused_ones_are_kept_as_a_record(store: AdviceStore) -> None:
    note(store, 1_000_000, verdict="range")
    assert store.list()[0]["state"] == "refused"
    with pytest.raises(KmindError, match="advice 1 is refused"):
        store.apply("1")


def test_a_flood_is_bounded(store: AdviceStore, clock: Clock) -> None:
    taken = 0
    for value in range(5000):
        clock.now += 0.001
        taken += note(store, value) is not None
    assert taken == len(store.list()) <= 22
    assert note(store, 5, instance="other@vda") is not None


def test_old_rows_go_and_open_ones_stay(
    store: AdviceStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmind.runtime.supervisor.advice._MOST_CLOSED", 5)
    note(store)
    store.apply("1")
    for value in range(30):
        clock.now += 60
        note(store, value, verdict="range")
    rows = store.list()
    assert rows[-1]["id"] == "1"
    assert len(rows) == 6


@pytest.mark.parametrize("name", ["0", "2", "-1", "x", "", "1 OR 1", "9" * 40, "\u0661"])
def test_an_unknown_number(store: AdviceStore, name: str) -> None:
    note(store)
    with pytest.raises(UsageError, match="there is no advice"):
        store.get(name)


def test_a_file_of_another_kind(tmp_path: Path, doer: Doer) -> None:
    path = tmp_path / "advice.db"
    path.write_bytes(b"not a database, at all. " * 100)
    with pytest.raises(KmindError, match="cannot open the advice"):
        AdviceStore(path, doer)
    path.unlink()
    store = AdviceStore(path, doer)
    store._db.execute("PRAGMA user_version = 9")
    store.close()
    with pytest.raises(KmindError, match="has version 9"):
        AdviceStore(path, doer)
