# SPDX-License-Identifier: Apache-2.0
"""Text of an extension is shown without harm, whatever is in it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.runtime.instance.notes import parse_note, parse_status
from kmind.runtime.sandbox.log_reader import LineReader
from kmind.util.ratelimit import Bucket
from kmind.util.text import clean


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.text(), st.integers(2, 50))
def test_clean(text: str, most: int) -> None:
    line = clean(text, most)
    assert len(line) <= most
    assert line.isprintable()
    if text.isprintable() and len(text) <= most:
        assert line == text


@given(st.binary(max_size=1024))
def test_any_note(note: bytes) -> None:
    reason, evidence = parse_note(note)
    assert reason.isprintable()
    json.dumps([reason, evidence], allow_nan=False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json(found: Any) -> None:
    for text in (json.dumps(found), json.dumps({"reason": found, "evidence": {"x": found}})):
        json.dumps([parse_note(text.encode()), parse_status(text.encode())], allow_nan=False)


def test_good_note() -> None:
    note = b'{"reason": "It is so.", "evidence": {"a": 1, "b": 2.5, "c": "x", "d": [1], "e": true}}'
    assert parse_note(note) == (
        "It is so.", {"a": 1, "b": 2.5, "c": "x", "d": "[1]", "e": "true"},
    )  # fmt: skip


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"[" * 4000, b'{"a": 1e999}'])
def test_status_that_is_none(text: bytes) -> None:
    assert all(isinstance(value, int | float | str) for value in parse_status(text).values())


def test_lines_are_cut_and_joined() -> None:
    reader = LineReader(Clock())
    assert reader.feed(b"one\ntw") == ["one"]
    assert reader.feed(b"o\nthree") == ["two"]
    assert reader.close() == ["three"]
    assert reader.feed(b"x" * 5000) == ["x" * 499 + "…"]


def test_rate() -> None:
    clock = Clock()
    reader = LineReader(clock, rate=2, burst=3)
    assert reader.feed(b"a\nb\nc\nd\ne\n") == ["a", "b", "c"]
    clock.now = 0.5
    assert reader.feed(b"f\ng\n") == ["(2 lines dropped: too many at once)", "f"]
    assert reader.close() == ["(1 lines dropped: too many at once)"]


@given(st.lists(st.floats(0, 10), max_size=200))
def test_bucket_never_lets_more_through(steps: list[float]) -> None:
    clock = Clock()
    bucket = Bucket(clock, rate=3, burst=5)
    passed = 0
    for step in steps:
        clock.now += step
        passed += bucket.allow()
    assert passed <= 5 + 3 * clock.now + 1e-6
