# SPDX-License-Identifier: Apache-2.0
"""A stored experiment as text for a terminal: its blocks, the interval over time, the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmind.errors import UsageError
from kmind.evidence.experiment import Experiment

__all__ = ["render_experiment"]

_GUTTER = 10
_LEAST_WIDTH = 40
_ROWS = 9
_APART = 4
_LOGARITHMIC = 20  # from such a ratio of the largest to the smallest block on


@dataclass(frozen=True)
class _Marks:
    incumbent: str
    candidate: str
    both: str
    calibration: str
    gap: str
    bar: str
    one: str
    tick: str
    side: str
    corner: str
    floor: str


_UNICODE = _Marks("○", "●", "◐", "·", "?", "│", "┄", "┤", "│", "└", "─")
_ASCII = _Marks("o", "x", "*", ".", "?", "|", "-", "+", "|", "+", "-")


def render_experiment(
    stored: Mapping[str, Any], *, width: int = 80, ascii: bool = False, unit: str = ""
) -> str:
    """Lines of at most ``width`` columns (from 40), from what ``Experiment.to_dict`` gave.

    ``ascii`` for terminals without Unicode; ``unit`` is that of the blocks. Raises UsageError
    if ``stored`` is not an experiment.
    """
    try:
        experiment = Experiment.from_dict(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"not a stored experiment: {type(error).__name__} {error}", hint="see kmind why"
        ) from error
    marks = _ASCII if ascii else _UNICODE
    columns = max(width, _LEAST_WIDTH) - _GUTTER
    lines = [*_verdict(experiment, stored, columns + _GUTTER)]
    if experiment.blocks:
        lines += ["", *_blocks(experiment, columns, marks, unit)]
    if experiment.pairs >= experiment.design.min_pairs:
        lines += ["", *_effect(experiment, columns, marks)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _verdict(experiment: Experiment, stored: Mapping[str, Any], width: int) -> list[str]:
    detectable = stored["detectable"]
    beforehand = (
        "the noise was not known before"
        if detectable is None
        else f"gains of {100 * (detectable - 1):.2g}% and more are detected "
        "in four of five experiments"
    )
    reason = experiment.reason or "it has not ended yet"
    text = f"{experiment.outcome or 'no verdict'}: {reason}"
    texts = [text, beforehand, *_effort(experiment)]
    return [line for text in texts for line in _folded(text.split(), width)]


def _effort(experiment: Experiment) -> list[str]:
    # The extension's own use of resources under each arm.
    notes = []
    for arm, used in (experiment.effort or {}).items():
        seconds = used["seconds"]
        if seconds > 0:
            io = f", {used['io_bytes'] / seconds:,.0f} bytes/s" if used["io_bytes"] else ""
            notes.append(f"{used['cpu_s'] / seconds:.1%} of a CPU{io} under the {arm}")
    return [f"the extension itself used {' and '.join(notes)}"] if notes else []


def _folded(words: Sequence[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _blocks(experiment: Experiment, columns: int, marks: _Marks, unit: str) -> list[str]:
    values = [value for _, value in experiment.blocks if value is not None]
    above = [value for value in values if value > 0]
    logarithmic = bool(above) and max(above) > _LOGARITHMIC * min(above)
    floor = math.log(min(above)) if logarithmic else 0.0

    def scale(value: float) -> float:
        if not logarithmic:
            return value
        return math.log(value) if value > 0 else floor

    heights = [scale(value) for value in values] or [0.0]
    grid = _Grid(columns, min(heights), max(heights), marks)
    for index, (arm, value) in enumerate(experiment.blocks):
        column = _column(index, len(experiment.blocks), columns)
        if value is None:
            grid.put(column, grid.low, marks.gap)
        elif index < experiment.calibration:
            grid.put(column, scale(value), marks.calibration)
        else:
            mark = marks.candidate if arm == "candidate" else marks.incumbent
            grid.put(column, scale(value), mark)
    legend = [f"blocks, {unit}:" if unit else "blocks:", f"{marks.incumbent} incumbent"]
    legend += [f"{marks.candidate} candidate", f"{marks.both} both"]
    if experiment.calibration:
        legend.append(f"{marks.calibration} before")
    if len(values) < len(experiment.blocks):
        legend.append(f"{marks.gap} no reading")
    seconds = len(experiment.blocks) * experiment.design.period_s
    back = math.exp if logarithmic else float
    return [
        *_folded(legend, columns + _GUTTER),
        *grid.lines(lambda height: _number(back(height))),
        _under("0 s", f"{seconds:.1f} s", len(experiment.blocks), columns),
    ]


def _effect(experiment: Experiment, columns: int, marks: _Marks) -> list[str]:
    seen = experiment.intervals(columns)
    last = seen[-1]
    middle = math.log(last.ratio)
    ends = [abs(middle) / 3, 0.02]
    if last.low > 0:
        ends.append(middle - math.log(last.low))
    if math.isfinite(last.high):
        ends.append(math.log(last.high) - middle)
    reach = 1.5 * max(ends)
    grid = _Grid(columns, min(middle, 0) - reach, max(middle, 0) + reach, marks)
    for column in range(_column(len(seen) - 1, len(seen), columns) + 1):
        grid.put(column, 0.0, marks.one)
    for index, one in enumerate(seen):
        column = _column(index, len(seen), columns)
        low = math.log(one.low) if one.low > 0 else -math.inf
        high = math.log(one.high) if math.isfinite(one.high) else math.inf
        grid.bar(column, low, high, marks.bar)
        grid.put(column, math.log(one.ratio), marks.candidate)
    percent = f"{100 * (1 - experiment.design.alpha):g}%"
    legend = ["effect, better above 1:", f"{marks.candidate} so far"]
    return [
        *_folded([*legend, f"{marks.bar} {percent} interval"], columns + _GUTTER),
        *grid.lines(lambda height: _number(math.exp(height), 3)),
        _under(f"pair {seen[0].pairs}", f"pair {last.pairs}", len(seen), columns),
    ]


class _Grid:
    # Characters by row, from the top, and column; heights from low to high.
    def __init__(self, columns: int, low: float, high: float, marks: _Marks) -> None:
        if high <= low:
            low, high = low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9
        self.low, self.high, self._marks = low, high, marks
        self._cells = [[" "] * columns for _ in range(_ROWS)]

    def _row(self, height: float) -> int:
        share = (self.high - height) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * (_ROWS - 1))

    def put(self, column: int, height: float, mark: str) -> None:
        row, marks = self._cells[self._row(height)], self._marks
        arms = {marks.incumbent, marks.candidate}
        there = row[column] == marks.both or {row[column], mark} == arms
        row[column] = marks.both if there else mark

    def bar(self, column: int, low: float, high: float, mark: str) -> None:
        for row in range(self._row(high), self._row(low) + 1):
            self._cells[row][column] = mark

    def lines(self, label: Callable[[float], str]) -> list[str]:
        rows, marks = [], self._marks
        for index, cells in enumerate(self._cells):
            labelled = index % 4 == 0
            height = self.high - (self.high - self.low) * index / (_ROWS - 1)
            text = label(height) if labelled else ""
            edge = marks.tick if labelled else marks.side
            rows.append(f"{text:>{_GUTTER - 2}} {edge}{''.join(cells)}")
        return [*rows, " " * (_GUTTER - 1) + marks.corner + marks.floor * len(self._cells[0])]


def _column(index: int, count: int, columns: int) -> int:
    # Few stand apart, many share a column.
    spread = min(columns // count, _APART)
    return index * spread if spread else index * columns // count


def _under(first: str, last: str, count: int, columns: int) -> str:
    end = _column(count - 1, count, columns) + 1
    return " " * _GUTTER + first + last.rjust(max(end - len(first), len(last) + 1))


def _number(value: float, digits: int = 4) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.{digits}g}{suffix}"
    return f"{value:.{digits}g}"
