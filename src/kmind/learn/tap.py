# SPDX-License-Identifier: Apache-2.0
"""Taking down what one agent says, in the place of its extension."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.learn._knob_values import KnobValues
from kmind.learn._tables import Changes
from kmind.learn.meta import Counts, Stream
from kmind.learn.recorded_instance import RecordedInstance
from kmind.learn.schema import STORED_RECORD, STORED_WINDOW
from kmind.learn.writer import Writer
from kmind.queue import Endpoint, open_tables

__all__ = ["Tap"]

_FLUSH_S = 1.0
_FLUSH_ROWS = 1 << 15

_Array = npt.NDArray[Any]


class Tap:
    """One instance that is recorded. ``drain`` often, ``flush`` at the end.

    Knobs are read before rows are written; a window has a knob's value only if that
    stood from before the window began until after it had ended.
    """

    def __init__(
        self,
        recorded: RecordedInstance,
        endpoint: Endpoint,
        writer: Writer,
        *,
        streams: tuple[Stream, ...] = ("windows", "records", "tables"),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = recorded.name
        self.windows = self.records = 0
        self._endpoint = endpoint
        self._writer = writer
        self._now_ns = now_ns
        self._ring_dropped = 0
        knobs = [(granted.knob, granted.target) for granted in recorded.usable]
        self._knob_values = KnobValues(knobs, now_ns)
        self._waiting_windows: list[_Array] = []
        self._waiting_records: list[_Array] = []
        self._rows = 0
        self._flushed_ns = now_ns()
        self._into: dict[Stream, int] = {
            stream: writer.add(recorded.meta(stream), self.counts)
            for stream in streams
            if stream != "tables"
        }
        parts = recorded.manifest.tables if "tables" in streams else ()
        tables = open_tables(recorded.agent.table_fds, [part.shape for part in parts])
        self._tables = [
            (
                writer.add(recorded.meta("tables", part.name), self.counts),
                Changes(tables[part.name], part),
            )
            for part in parts
        ]
        self.look()

    def counts(self) -> Counts:
        """Return the losses so far, except those that only the writer knows."""
        lost = self._endpoint.windows.lost + sum(ring.lost for ring in self._endpoint.records)
        return Counts(ring_dropped=self._ring_dropped, ring_lost=lost)

    @property
    def dropped(self) -> int:
        """Rows that the disk was too slow for."""
        numbers = [*self._into.values(), *(number for number, _ in self._tables)]
        return sum(map(self._writer.dropped, numbers))

    def drain(self) -> float:
        """Take what the rings hold; how full the fullest was, 0 to 1."""
        self._endpoint.beat()
        fullest = 0.0
        for ring in self._endpoint.records:
            while len(batch := ring.peek()):
                fullest = max(fullest, len(batch) / self._endpoint.geometry.sq_slots)
                own = batch[batch["kind"] >= layout.KIND["MODULE"]]
                if len(own) and "records" in self._into:
                    rows = np.empty(len(own), STORED_RECORD)
                    rows["at"], rows["record"] = self.windows, own
                    self._waiting_records.append(rows)
                    self._rows += len(rows)
                    self.records += len(rows)
                ring.release(len(batch))
        if len(self._endpoint.windows):
            self._read_tables()
        while len(batch := self._endpoint.windows.peek()):
            rows = np.empty(len(batch), STORED_WINDOW)
            rows["at"] = np.arange(self.windows, self.windows + len(batch))
            rows["window"] = batch
            if "windows" in self._into:
                self._waiting_windows.append(rows)
            self._ring_dropped = int(batch["dropped"][-1])
            self.windows += len(batch)
            self._rows += len(rows)
            self._endpoint.windows.release(len(batch))
        if self._rows >= _FLUSH_ROWS or self._now_ns() - self._flushed_ns >= _FLUSH_S * 1e9:
            self.flush()
        return fullest

    def _read_tables(self) -> None:
        # As the extension would see them when it is given the windows that wait.
        for number, changes in self._tables:
            if len(rows := changes.read(self.windows)):
                self._writer.put(number, rows)

    def look(self) -> None:
        """Read the knobs. One that changed is known from this moment on."""
        self._knob_values.read()

    def flush(self) -> None:
        """Hand everything over to be written, with the knobs as they stand."""
        self._flushed_ns = self._now_ns()
        self._rows = 0
        self.look()
        self._read_tables()
        if self._waiting_windows:
            rows = np.concatenate(self._waiting_windows)
            self._waiting_windows = []
            values = self._knob_values.of_windows(rows["window"]["start_ns"])
            self._writer.put(self._into["windows"], rows, values)
        if self._waiting_records:
            rows = np.concatenate(self._waiting_records)
            self._waiting_records = []
            # As the extension would have had them: by window, then by CPU.
            order = np.lexsort((rows["record"]["cpu"], rows["at"]))
            self._writer.put(self._into["records"], rows[order])
