# SPDX-License-Identifier: Apache-2.0
"""Notes of findings and reports: what an extension may send, and how much of it."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.extension.handover import (
    FILES_MOST,
    NOTE_MOST,
    Cause,
    Cleared,
    Filed,
    Found,
    encode,
    read,
)

FOUND = Found(
    kind="slow",
    title="Requests take long.",
    score=2.5,
    evidence={"requests": 9, "place": "é"},
    causes=(Cause(hint="It is hot.", evidence={"celsius": 90.5}),),
)
FILED = Filed(kind="failure", signature="s", title="It fails.", files={"a.csv": b"\0\xff"})


@pytest.mark.parametrize("note", [FOUND, FILED, Cleared(kind="slow", part="queue 1")])
def test_note_is_read_as_it_was_written(note: Any) -> None:
    text = encode(note)
    assert text.isascii()  # it can be cut anywhere
    assert read(text, type(note)) == note


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(encode(FOUND)) | fields).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"{}", "missing required field"),
        (changed(instance="slowio@vda"), "unknown field `instance`"),
        (changed(kind="No Name"), r"at `\$.kind`"),
        (changed(title=""), r"at `\$.title`"),
        (changed(title="x" * 201), r"at `\$.title`"),
        (changed(score="much"), r"at `\$.score`"),
        (changed(evidence={"a": -(1 << 63) - 1}), "a does not fit in 64 bits"),
        (changed(evidence={str(n): n for n in range(25)}), r"at `\$.evidence`"),
        (changed(causes=[{"hint": "h"}] * 9), r"at `\$.causes`"),
        (b"[" * 40_000, "truncated|nested too deep|Expected"),
        (b'"' + b"x" * NOTE_MOST + b'"', f"may take {NOTE_MOST}"),
    ],
)
def test_note_that_is_refused_says_why(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(text, Found)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_number_that_json_has_not_is_refused_where_it_is_made(score: float) -> None:
    with pytest.raises(ValueError, match=r"JSON is malformed|score is"):
        encode(msgspec.structs.replace(FOUND, score=score))


def test_files_together_are_bounded() -> None:
    files = {"a": bytes(FILES_MOST // 2), "b": bytes(FILES_MOST // 2)}
    encode(msgspec.structs.replace(FILED, files=files))
    with pytest.raises(ValueError, match=f"may take {FILES_MOST}"):
        encode(msgspec.structs.replace(FILED, files=files | {"c": b"x"}))


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "A", "a\n", "a" * 61])
def test_file_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="files"):
        encode(msgspec.structs.replace(FILED, files={name: b""}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_a_reason(text: bytes) -> None:
    for record in (Found, Filed, Cleared):
        with contextlib.suppress(ValueError):
            read(text, record)
