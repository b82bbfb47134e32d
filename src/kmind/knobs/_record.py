# SPDX-License-Identifier: Apache-2.0
"""The record of a knob: its type, unit, bounds and reference, without reading or writing it.

The policy's bounds, the kernel agent's grants and the table in the documentation are made
from it. Every backend gets it (``kmind.knobs.backend``). Immutable, safe in any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from zlib import crc32

from kmind.errors import UsageError
from kmind.knobs._target import Target, TargetKind

__all__ = ["KnobRecord", "Rule", "RuleOp", "Value"]

Value = int | str
RuleOp = Literal["<", "<=", ">", ">="]

_MEMORY_FILE = Path("proc/meminfo")


@dataclass(frozen=True)
class Rule:
    """A rule over two knobs of one target: ``value op other + offset``.

    Where the other knob cannot be read, no value satisfies it.
    """

    op: RuleOp
    other: str
    offset: int = 0

    def holds(self, value: int, other: int) -> bool:
        """True if ``value op other + offset`` is true."""
        bound = other + self.offset
        if self.op == "<":
            return value < bound
        if self.op == "<=":
            return value <= bound
        if self.op == ">":
            return value > bound
        return value >= bound

    def __str__(self) -> str:
        return f"{self.op} {self.other}" + (f" {self.offset:+d}" if self.offset else "")


@dataclass(frozen=True, kw_only=True)
class KnobRecord:
    """One kernel setting that can be changed.

    ``minimum`` and ``maximum`` are bounds that are safe on any machine, often
    narrower than what the kernel takes; ``memory_percent``, if not 0, lowers the
    maximum (in kB) to that share of the machine's memory. Values are multiples
    of ``grid``. An enum takes one of ``choices``, of which a target may lack
    some (``available``). ``rules`` bind it to other knobs of the same target.

    ``path`` says to its backend where the value is: for a file, relative to the target's
    root, with the target's name for ``{name}``. ``reference`` is the kernel's own
    documentation. ``settle`` says whether a change works at once or needs minutes to show.
    ``disturbs`` names knobs of the same target whose values the kernel resets when this one
    is written. ``conflicts`` are files that must read 0, or else this knob is not
    the one in force and writing it would lose their value. ``propagate`` names
    the step that carries a change to what the kernel copied it into before, and
    ``drain`` a value that a decrease passes through for moments, as what was begun
    under the larger one would go on with it (None: it does not). ``note`` is one
    sentence on what is odd about it, or "".

    ``cost`` is what the change itself costs, whatever the value: nothing worth a word
    (``none``), a moment (``cheap``), or work, memory or waiting of others
    (``disturbing``); ``cost_why`` says what. ``listed`` says where the choices that a
    target has can be read: in its file, nowhere (``all`` are there), or among the
    kernel's compressors (``crypto``). ``words`` are texts in the file that stand for
    numbers. A cgroup's knob belongs to a ``controller`` of version 1; "" is version 2.
    """

    name: str
    target: TargetKind
    path: str
    summary: str
    reference: str
    kind: Literal["int", "enum"] = "int"
    unit: str = ""
    minimum: int = 0
    maximum: int = 0
    memory_percent: int = 0
    grid: int = 1
    choices: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    settle: Literal["instant", "slow"] = "instant"
    disturbs: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    propagate: Literal["", "open_files"] = ""
    drain: int | None = None
    note: str = ""
    cost: Literal["none", "cheap", "disturbing"] = "cheap"
    cost_why: str = ""
    listed: Literal["file", "all", "crypto"] = "file"
    words: tuple[tuple[str, int], ...] = ()
    controller: str = ""

    @property
    def id(self) -> int:
        """Stable 32-bit number of the knob: the CRC-32 (zlib's) of its name."""
        return crc32(self.name.encode())

    def limits(self, target: Target) -> tuple[int, int]:
        """Safe minimum and maximum on this machine, encoded, in the knob's unit."""
        if self.kind == "enum":
            return 0, len(self.choices) - 1
        maximum = self.maximum
        if self.memory_percent:
            share = _memory_kb(target.root) * self.memory_percent // 100
            maximum = max(self.minimum, min(maximum, share))
        return self.minimum, maximum

    def parse(self, text: str) -> Value:
        """A value from what a user typed; ``UsageError`` if it is none."""
        word = text.strip()
        if self.kind == "enum":
            return self.decode(self.encode(word))
        try:
            return dict(self.words).get(word) or int(word, 10)
        except ValueError:
            raise UsageError(
                f"{self.name} takes an integer{f' ({self.unit})' if self.unit else ''}, "
                f"not {text!r}"
            ) from None

    def format(self, value: Value) -> str:
        """The value as the kernel's file takes it; the inverse of ``parse``."""
        self.encode(value)
        return str(value)

    def encode(self, value: Value) -> int:
        """The value as an integer: itself, or its index in ``choices``.

        ``UsageError`` for a value of the wrong type, or an unknown choice.
        """
        if self.kind == "int":
            if type(value) is int:
                return value
            raise UsageError(f"{self.name} takes an integer, not {value!r}")
        if isinstance(value, str) and value in self.choices:
            return self.choices.index(value)
        near = get_close_matches(str(value), self.choices, 1)
        raise UsageError(
            f"{self.name} has no choice {value!r}",
            hint=(f"did you mean {near[0]}? " if near else "")
            + f"it takes {', '.join(self.choices)}",
        )

    def decode(self, code: int) -> Value:
        """The value that ``encode`` made an integer of."""
        if self.kind == "int":
            return code
        if 0 <= code < len(self.choices):
            return self.choices[code]
        raise UsageError(f"{self.name} has no choice number {code}")


def _memory_kb(root: Path) -> int:
    """MemTotal in kB; 0 where it cannot be told, which leaves the safe minimum."""
    try:
        for line in (root / _MEMORY_FILE).read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
