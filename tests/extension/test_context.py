# SPDX-License-Identifier: Apache-2.0
"""Recommendations are encoded as the queue takes them, or refused in words."""

from typing import Any

import msgspec
import numpy as np
import pytest

from kmind.abi import layout
from kmind.extension import Context, Given, KnobInfo, Outlets

INT = KnobInfo("size", 7, "int", "kB", 0, 64, 4, (), 254, 8)
ENUM = KnobInfo("style", 8, "enum", "", 0, 1, 0, ("bold", "shy"), 254, "shy")


class Recorder:
    """A port that keeps what it is given, up to a number of entries."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.made: list[dict[str, Any]] = []

    def submit(self, knob: int, target: int, value: int, **rest: Any) -> int | None:
        if len(self.made) >= self.room:
            return None
        self.made.append({"knob": knob, "target": target, "value": value, **rest})
        return len(self.made)


def make(port: Recorder, **params: Any) -> Context:
    return Context(
        Given(
            module="sample",
            target="vda",
            params=params,
            features={},
            model=3,
            knobs={"size": INT, "style": ENUM},
        ),
        Outlets(port=port, now=lambda: 10.0),
    )


def recommend(context: Context, knob: str, value: object, **rest: Any) -> int | None:
    words = {"reason": "It is so.", "evidence": {"seen": 3}, "hold_s": 1.5, **rest}
    return context.recommend(knob, value, **words)


@pytest.mark.parametrize(
    ("knob", "value", "number"),
    [
        ("size", 16, 16), ("size", 16.0, 16), ("size", np.int64(-4), -4),
        ("size", np.float32(8), 8), ("size", 1 << 40, 1 << 40), ("style", "shy", 1),
    ],
)  # fmt: skip
def test_encoded(knob: str, value: object, number: int) -> None:
    port = Recorder()
    context = make(port)
    assert recommend(context, knob, value, expires_s=0.5) == 1
    entry = port.made[0]
    assert entry["value"] == number
    assert entry["expires_ns"] == 10_500_000_000
    assert (entry["hold_ms"], entry["model"], entry["target"]) == (1500, 3, 254)
    assert entry["type"] == layout.TYPE["INT" if knob == "size" else "ENUM"]
    assert msgspec.json.decode(entry["note"]) == {"reason": "It is so.", "evidence": {"seen": 3}}
    made = context.recall(1)
    assert made == (knob, number if knob == "size" else "shy")


@pytest.mark.parametrize(
    ("knob", "value", "rest", "message"),
    [
        ("size", float("nan"), {}, "size takes whole numbers, not nan"),
        ("size", float("inf"), {}, "size takes whole numbers, not inf"),
        ("size", np.float64("-inf"), {}, "size takes whole numbers, not -inf"),
        ("size", 1.5, {}, "size takes whole numbers, not 1.5"),
        ("size", 1 << 63, {}, "does not fit in 64 bits"),
        ("size", 1e300, {}, "does not fit in 64 bits"),
        ("size", True, {}, "size takes a number, not True"),
        ("size", "16", {}, "size takes a number, not '16'"),
        ("size", None, {}, "size takes a number, not None"),
        ("style", "loud", {}, "style has no choice 'loud'; it has bold, shy"),
        ("style", 1, {}, "style has no choice 1"),
        ("shape", 1, {}, "knob 'shape' is not granted; granted: size, style"),
        ("size", 8, {"hold_s": 0}, "hold_s is 0"),
        ("size", 8, {"hold_s": float("nan")}, "hold_s is nan"),
        ("size", 8, {"hold_s": 1e9}, "hold_s is 1000000000.0"),
        ("size", 8, {"expires_s": -1}, "expires_s is -1"),
        ("size", 8, {"reason": ""}, "reason must be one line"),
        ("size", 8, {"reason": "a\nb"}, "reason must be one line"),
        ("size", 8, {"reason": "x" * 2000}, "may take 1024"),
        ("size", 8, {"evidence": {"a": np.float64("nan")}}, "evidence 'a' is nan"),
        ("size", 8, {"evidence": {"a": [1]}}, "evidence 'a' must be a number or text"),
    ],
)
def test_refused(knob: str, value: object, rest: dict[str, Any], message: str) -> None:
    port = Recorder()
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        recommend(make(port), knob, value, **rest)
    assert port.made == []


def test_full_queue_is_none() -> None:
    assert recommend(make(Recorder(room=0)), "size", 8) is None


def test_memory_of_recommendations_is_bounded() -> None:
    context = make(Recorder(room=1000))
    for _ in range(1000):
        recommend(context, "size", 8)
    assert context.recall(1) is None
    assert context.recall(1000) == ("size", 8)


def test_seed_makes_a_run_repeatable() -> None:
    first, second, other = (make(Recorder(), seed=seed).rng.random() for seed in (5, 5, 6))
    assert first == second != other


# Findings and reports


class Handed:
    """A detector's and reporter's context, and what it hands over."""

    def __init__(self) -> None:
        self.now = 10.0
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.context = Context(
            Given(
                module="sample",
                target="vda",
                params={},
                features={},
                knobs={},
                findings=["slow"],
                reports=["failure"],
            ),
            Outlets(
                port=Recorder(),
                now=lambda: self.now,
                hand_over=lambda what, text: self.notes.append((what, msgspec.json.decode(text))),
            ),
        )

    def find(self, **words: Any) -> None:
        self.context.finding("slow", **{"title": "It is slow.", "score": 2} | words)

    def file(self, **words: Any) -> None:
        self.context.file_report("failure", **{"signature": "s", "title": "T."} | words)


def test_finding_is_sent_as_it_is() -> None:
    handed = Handed()
    handed.find(
        part="queue 1", score=np.float32(2.5), evidence={"n": np.int64(3), "s": "x"},
        causes={"It is hot.": {"celsius": np.float64(90)}}, action="Cool it.",
    )  # fmt: skip
    assert handed.notes == [
        (
            "finding",
            {
                "kind": "slow",
                "part": "queue 1",
                "title": "It is slow.",
                "score": 2.5,
                "evidence": {"n": 3, "s": "x"},
                "causes": [{"hint": "It is hot.", "evidence": {"celsius": 90.0}}],
                "action": "Cool it.",
            },
        )
    ]


def test_finding_is_confirmed_each_ten_seconds_and_cleared_once() -> None:
    handed = Handed()
    handed.context.clear_finding("slow")  # nothing was found
    for _ in range(200):
        handed.find()
        handed.find(part="other")
        handed.now += 0.1
    handed.context.clear_finding("slow")
    handed.context.clear_finding("slow")
    assert [what for what, _ in handed.notes] == 4 * ["finding"] + ["cleared"]
    handed.find()  # found again, it is news at once
    assert handed.notes[-1][0] == "finding"


def test_finding_is_sent_though_the_clock_was_set_back() -> None:
    handed = Handed()
    handed.find()
    handed.now -= 5
    handed.find()
    assert len(handed.notes) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"title": ""}, "length"),
        ({"title": "x" * 201}, "length"),
        ({"title": 3}, "str"),
        ({"score": float("nan")}, "malformed"),
        ({"evidence": {"a": float("inf")}}, "malformed"),
        ({"evidence": {"a": [1]}}, "array"),
        ({"evidence": {"a": 1 << 70}}, "64 bits"),
        ({"evidence": {str(n): n for n in range(25)}}, "length"),
        ({"causes": {str(n): {} for n in range(9)}}, "length"),
        ({"part": "x" * 101}, "length"),
        ({"action": object()}, "object"),
    ],
)
def test_finding_that_does_not_fit_raises(words: dict[str, Any], why: str) -> None:
    handed = Handed()
    with pytest.raises(ValueError, match=f"(?i){why}"):
        handed.find(**words)
    assert handed.notes == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"signature": ""}, "length"),
        ({"count": 0}, ">= 1"),
        ({"files": {"a/b": b""}}, "match"),
        ({"files": {"a": b"x" * (33 << 10)}}, "may take 32768"),
        ({"files": {"a": b"x" * (48 << 10)}}, "may take"),
        ({"files": {"a": "text"}}, "must be bytes"),
    ],
)
def test_report_that_does_not_fit_raises(words: dict[str, Any], why: str) -> None:
    handed = Handed()
    with pytest.raises(ValueError, match=f"(?i){why}"):
        handed.file(**words)
    assert handed.notes == []


def test_kind_that_is_not_declared_raises() -> None:
    context = Handed().context
    for call in (
        lambda: context.finding("failure", title="T.", score=1),
        lambda: context.clear_finding("failure"),
        lambda: context.file_report("slow", signature="s", title="T."),
    ):
        with pytest.raises(ValueError, match="is not in the manifest"):
            call()
