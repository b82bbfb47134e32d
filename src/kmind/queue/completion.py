# SPDX-License-Identifier: Apache-2.0
"""Writing the completion queue: recommendations, and the verdicts on them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.queue.layout import Bytes, Geometry
from kmind.queue.order import fence

__all__ = ["CompletionQueue", "check_words", "read_note"]

_WORD = 1 << 32
_U64 = (1 << 64) - 1
_SEED = 0x9E3779B97F4A7C15  # KMIND_CHECK_SEED
_SLOTS = layout.LIMIT["CQ_SLOTS"]
_NOTE = layout.LIMIT["NOTE_SIZE"]


def check_words(words: npt.NDArray[np.uint64]) -> int:
    """``kmind_mix`` over the first six words of a recommendation."""
    value = _SEED
    for word in words[:6].tolist():
        value = ((value ^ word) * _SEED) & _U64
        value ^= value >> 32
    return value


def read_note(arena: Bytes, geometry: Geometry, slot: int, length: int) -> bytes:
    """The note of one slot, as the extension left it: untrusted bytes."""
    start = geometry.notes + (slot % _SLOTS) * _NOTE
    return arena[start : start + min(length, _NOTE)].tobytes()


class CompletionQueue:
    """The extension's end: one writer, not thread-safe.

    Ids rise by one with each recommendation, from ``first_id``: 1 or above, and above all
    that an earlier writer used, for the agent refuses those as replayed.
    """

    def __init__(self, arena: Bytes, geometry: Geometry, first_id: int = 1) -> None:
        size = _SLOTS * layout.RECOMMENDATION.itemsize
        raw = arena[geometry.cq : geometry.cq + size]
        header = arena[: layout.HEADER.itemsize].view(layout.HEADER)
        self._words = raw.view(np.uint64).reshape(_SLOTS, 8)
        self._answer = self._words[:, 7]
        self._tail_word = header["cq_tail"]
        self._notes = arena[geometry.notes : geometry.notes + _SLOTS * _NOTE].reshape(_SLOTS, _NOTE)
        self._tail = int(self._tail_word[0])
        self._id = first_id - 1
        self._open: dict[int, int] = {}  # position -> id, oldest first

    def submit(
        self,
        knob: int,
        target: int,
        value: int,
        *,
        type: int,
        expires_ns: int,
        hold_ms: int,
        model: int = 0,
        note: bytes = b"",
    ) -> int | None:
        """Queue a recommendation; its id, or None when too many await their verdict."""
        if len(self._open) >= _SLOTS:
            return None
        slot = self._tail % _SLOTS
        note = note[:_NOTE]
        self._notes[slot, : len(note)] = np.frombuffer(note, np.uint8)
        self._id = (self._id + 1) % _WORD
        commit = (self._tail + 1) % _WORD
        entry = np.array(
            [
                commit | self._id << 32,
                knob | target << 32,
                value & _U64,
                expires_ns,
                model | type << 32,
                hold_ms | len(note) << 32,
                0,
                0,
            ],
            np.uint64,
        )
        entry[6] = check_words(entry)
        self._words[slot] = entry
        fence()
        self._open[self._tail] = self._id
        self._tail = commit
        self._tail_word[0] = commit
        return self._id

    def answers(self) -> list[tuple[int, int]]:
        """(id, verdict) of each recommendation answered since the last call, in order."""
        answers = []
        for position, rec_id in list(self._open.items()):
            answer = int(self._answer[position % _SLOTS])
            if answer >> 32 != rec_id:
                break
            del self._open[position]
            answers.append((rec_id, answer & 0xFFFFFFFF))
        return answers

    @property
    def waiting(self) -> int:
        """Recommendations without a verdict so far."""
        return len(self._open)
