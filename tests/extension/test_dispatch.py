# SPDX-License-Identifier: Apache-2.0
"""An extension is called for everything that its rings hold, in a fixed order."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from kmind.abi import layout
from kmind.extension import (
    ChangeEvent,
    Context,
    Dispatcher,
    Extension,
    Given,
    KnobInfo,
    Outlets,
    VerdictEvent,
)

KNOB = KnobInfo("size", 7, "int", "kB", 0, 64, 4, (), 254, 8)


class Ring:
    """A ring that holds one run of entries."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.entries = np.zeros(0, dtype)

    def peek(self) -> Any:
        return self.entries

    def release(self, count: int) -> None:
        self.entries = self.entries[count:]


class Wire:
    """The other end of the rings, in memory; it is the context's port too."""

    def __init__(self) -> None:
        self.mode = layout.MODE["AUTO"]
        self.windows = Ring(layout.WINDOW)
        self.records = [Ring(layout.RECORD), Ring(layout.RECORD)]
        self.cq = self
        self.pending: list[tuple[int, int]] = []
        self.beats = 0
        self.status = b""
        self.made = 0

    def answers(self) -> list[tuple[int, int]]:
        out, self.pending = self.pending, []
        return out

    def submit(self, *_: Any, **__: Any) -> int | None:
        self.made += 1
        return self.made

    def beat(self) -> None:
        self.beats += 1

    def wait(self, timeout_s: float) -> bool:
        return any(len(ring.entries) for ring in (self.windows, *self.records))

    def set_status(self, text: bytes) -> None:
        self.status = text


class Witness(Extension):
    """Keeps all that it is told."""

    def start(self) -> None:
        self.seen: list[Any] = [("start", self.context.mode)]
        self.answer: Mapping[str, Any] = {"count": np.int64(3), "list": np.arange(2)}

    def on_windows(self, windows: Any) -> None:
        self.seen.append(("windows", windows["seq"].tolist()))

    def on_records(self, records: Any) -> None:
        self.seen.append(("records", records["value"].tolist()))

    def on_verdict(self, verdict: VerdictEvent) -> None:
        self.seen.append(verdict)

    def on_change(self, change: ChangeEvent) -> None:
        self.seen.append(change)

    def on_mode(self, mode: str) -> None:
        self.seen.append(("mode", mode))

    def status(self) -> Mapping[str, Any]:
        return self.answer


@pytest.fixture
def parts() -> tuple[Wire, Witness, Context, Dispatcher]:
    wire = Wire()
    context = Context(
        Given(module="m", target="t", params={}, features={}, knobs={"size": KNOB}),
        Outlets(port=wire),
    )
    witness = Witness(context)
    dispatcher = Dispatcher(wire, witness, context)
    dispatcher.start()
    return wire, witness, context, dispatcher


def records(*entries: tuple[str | int, int, int]) -> Any:
    out = np.zeros(len(entries), layout.RECORD)
    for row, (kind, subject, value) in zip(out, entries, strict=True):
        row["kind"] = layout.KIND[kind] if isinstance(kind, str) else kind
        row["subject"] = subject
        row["value"] = np.int64(value).astype(np.uint64)
    return out


def test_how_an_experiment_ended(parts: tuple[Wire, Witness, Context, Dispatcher]) -> None:
    wire, witness, context, dispatcher = parts
    context.recommend("size", 16, reason="So.", evidence={}, hold_s=1)
    context.recommend("size", 32, reason="So.", evidence={}, hold_s=1)
    wire.records[0].entries = records(
        ("KEPT", 1, 16),
        ("DROPPED", 2, layout.OUTCOME["NO_CHANGE"]),
        ("DROPPED", 2, layout.OUTCOME["GAIN"]),
        ("DROPPED", 2, 77),
    )
    dispatcher.step(0)
    assert witness.seen[1:] == [
        ChangeEvent("kept", 1, "size", 16),
        ChangeEvent("dropped", 2, "size", 32, "no change"),
        ChangeEvent("dropped", 2, "size", 32, "gain"),
        ChangeEvent("dropped", 2, "size", 32, "aborted"),
    ]


def test_everything_is_handed_over(parts: tuple[Wire, Witness, Context, Dispatcher]) -> None:
    wire, witness, context, dispatcher = parts
    context.recommend("size", 16, reason="So.", evidence={}, hold_s=1)
    wire.pending = [(1, layout.VERDICT["APPROVED"]), (99, layout.VERDICT["RANGE"])]
    wire.records[0].entries = records(("APPLIED", 1, 16), (64, 0, 5), ("UNDONE", 99, 1))
    wire.records[1].entries = records((65, 0, 6), (64, 0, 7))
    wire.windows.entries = np.zeros(2, layout.WINDOW)
    wire.windows.entries["seq"] = 1, 2
    wire.mode = layout.MODE["CANARY"]
    assert dispatcher.step(0)
    assert witness.seen == [
        ("start", "auto"),
        ("mode", "canary"),
        VerdictEvent(1, "approved", "size", 16),
        ChangeEvent("applied", 1, "size", 16),
        ("records", [5]),
        ("records", [6, 7]),
        ("windows", [1, 2]),
    ]
    assert not len(wire.windows.entries)
    assert not any(len(ring.entries) for ring in wire.records)
    assert not dispatcher.step(0)


def test_negative_value_of_a_change(parts: tuple[Wire, Witness, Context, Dispatcher]) -> None:
    wire, witness, context, dispatcher = parts
    context.recommend("size", -4, reason="So.", evidence={}, hold_s=1)
    wire.records[0].entries = records(("UNDONE", 1, -8))
    assert dispatcher.step(0)
    assert witness.seen[-1] == ChangeEvent("undone", 1, "size", -8)


@pytest.mark.parametrize("seen_between", [True, False])
@pytest.mark.parametrize("verdict", ["SHADOWED", "ADVISED"])
def test_mode_is_told_again_after_an_answer_of_an_earlier_mode(
    parts: tuple[Wire, Witness, Context, Dispatcher], verdict: str, seen_between: bool
) -> None:
    # To advise and back: the extension may not see it, and rest for good on what it is answered.
    wire, witness, context, dispatcher = parts
    context.recommend("size", 16, reason="So.", evidence={}, hold_s=1)
    if seen_between:
        wire.mode = layout.MODE["ADVISE"]
        dispatcher.step(0)
    wire.mode = layout.MODE["AUTO"]
    wire.pending = [(1, layout.VERDICT[verdict])]
    dispatcher.step(0)
    answer = VerdictEvent(1, verdict.lower(), "size", 16)
    assert witness.seen[-2:] == [answer, ("mode", "auto")]
    wire.mode = layout.MODE["ADVISE"]
    dispatcher.step(0)
    wire.pending = [(1, layout.VERDICT[verdict])]
    dispatcher.step(0)
    assert witness.seen[-2:] == [("mode", "advise"), answer]


def test_mode_that_is_none_counts_as_emergency(
    parts: tuple[Wire, Witness, Context, Dispatcher],
) -> None:
    wire, witness, _, dispatcher = parts
    wire.mode = 77
    dispatcher.step(0)
    assert witness.seen[-1] == ("mode", "emergency")


def test_beats_also_when_idle(parts: tuple[Wire, Witness, Context, Dispatcher]) -> None:
    wire, _, _, dispatcher = parts
    before = wire.beats
    dispatcher.step(0)
    assert wire.beats > before


def test_a_verdict_alone_is_handed_over(parts: tuple[Wire, Witness, Context, Dispatcher]) -> None:
    wire, witness, context, dispatcher = parts
    context.recommend("size", 16, reason="So.", evidence={}, hold_s=1)
    wire.pending = [(1, layout.VERDICT["RANGE"])]
    dispatcher.step(0)
    assert witness.seen[-1] == VerdictEvent(1, "range", "size", 16)


def test_status(parts: tuple[Wire, Witness, Context, Dispatcher]) -> None:
    wire, _, _, _ = parts
    assert msgspec.json.decode(wire.status) == {"count": 3, "list": [0, 1]}


def test_status_follows_what_came(
    parts: tuple[Wire, Witness, Context, Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, witness, context, dispatcher = parts
    later = context.now() + 60
    monkeypatch.setattr(context, "now", lambda: later)
    shown: list[bytes] = []
    monkeypatch.setattr(wire, "set_status", shown.append)
    witness.answer = {"count": 4}
    dispatcher.step(0)
    assert shown == [], "nothing came: nothing is looked at"
    wire.records[0].entries = records((64, 0, 5))
    dispatcher.step(0)
    assert [msgspec.json.decode(text) for text in shown] == [{"count": 4}]
    later += 60
    wire.records[0].entries = records((64, 0, 5))
    dispatcher.step(0)
    assert len(shown) == 1, "it says the same"


def test_status_that_is_too_long() -> None:
    wire = Wire()
    context = Context(
        Given(module="m", target="t", params={}, features={}, knobs={}),
        Outlets(port=wire),
    )
    witness = Witness(context)
    witness.start()
    witness.answer = {"text": "x" * 5000}
    witness.start = lambda: None  # type: ignore[method-assign]
    Dispatcher(wire, witness, context).start()
    assert msgspec.json.decode(wire.status) == {"status": "too long to show"}
