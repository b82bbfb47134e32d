# SPDX-License-Identifier: Apache-2.0
"""One policy file: its schema, and errors that name the line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from kmind.errors import PolicyError, UsageError
from kmind.knobs import Knob, RuleOp, get_knob, parse_target
from kmind.util.foreign import foreign, one_line
from kmind.util.trust import read_trusted

__all__ = ["DaemonDeath", "Layer", "RuleEntry", "Section", "read_layer"]

DaemonDeath = Literal["restore", "keep"]

_LONG = 500  # of what a message says

# As the agent computes: in 64 bits, with a sign, and what is added to a value in less.
_MOST = (1 << 63) - 1
_Number = Annotated[int, msgspec.Meta(ge=-_MOST, le=_MOST)]
_Offset = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]

_RATE = re.compile(r"([1-9][0-9]{0,5}) per minute")
_DEFAULT_PER_MINUTE = 60
_DEFAULT_BURST = 4
_DEFAULT_HOLD_S = 3600.0
_MOST_HOLD_S = 4294967  # in ms it fits in 32 bits


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Policy for a knob: ``[knob."NAME"]`` or ``[defaults]``; None where the policy is silent.

    ``min``, ``max`` and ``max_step`` are in the knob's unit.
    """

    min: _Number | None = None
    max: _Number | None = None
    max_step: _Number | None = None
    max_step_factor: float | None = None
    choices: tuple[str, ...] | None = None
    rate: str | None = None
    burst: _Number | None = None
    max_hold_s: float | None = None
    forbidden: bool | None = None
    unsafe: bool | None = None
    on_daemon_death: DaemonDeath | None = None

    def overlaid(self, other: Section | None) -> Section:
        """This one, with each field that the other sets."""
        if other is None:
            return self
        changes = {k: v for k, v in msgspec.structs.asdict(other).items() if v is not None}
        return msgspec.structs.replace(self, **changes)

    @property
    def per_minute(self) -> int:
        """Changes a minute in the long run; 0 for any number."""
        if self.rate is None:
            return _DEFAULT_PER_MINUTE
        match = _RATE.fullmatch(self.rate)
        return int(match[1]) if match else 0

    @property
    def burst_or_default(self) -> int:
        """Changes that may come at once."""
        return _DEFAULT_BURST if self.burst is None else self.burst

    @property
    def hold_ms(self) -> int:
        """The longest that a value may be recommended to stand, in milliseconds."""
        return int(1000 * (_DEFAULT_HOLD_S if self.max_hold_s is None else self.max_hold_s))


class RuleEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[rule]]``: ``knob op other + offset``, in their units."""

    knob: str
    op: RuleOp
    other: str
    offset: _Offset = 0


class Layer(msgspec.Struct, frozen=True):
    """One file: sections by name ("defaults", "KNOB", "KNOB@TARGET"), and rules.

    ``lines`` maps (section, field) to "file:line".
    """

    path: Path
    sections: dict[str, Section]
    rules: tuple[RuleEntry, ...]
    lines: dict[tuple[str, str], str]


def read_layer(path: Path, *, root: Path = Path("/")) -> Layer:
    """Read and check one policy file; ``PolicyError`` names the line at fault.

    Targets in it are those of ``root``. One that is not there may come, and is no fault; one
    that can never have the knob is. A file that another user than root could change is refused
    to root.
    """
    with foreign(lambda why: PolicyError(f"cannot read the policy {path}: {why}")):
        text = read_trusted(path, PolicyError).decode()
    with foreign(lambda why: PolicyError(f"{path}: {why}", hint="see docs/policy.md")):
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            why = one_line(error)
            raise PolicyError(f"{path}: not TOML: {why}", hint="see docs/policy.md") from None
        return _Reader(path, text, root).layer(document)


class _Reader:
    def __init__(self, path: Path, text: str, root: Path) -> None:
        self._path = path
        self._root = root
        self._rows = text.splitlines()
        self._lines: dict[tuple[str, str], str] = {}

    def layer(self, document: dict[str, Any]) -> Layer:
        known = {"defaults", "knob", "rule", "forbidden", "on_daemon_death"}
        for key in document.keys() - known:
            raise self._wrong(
                "", key, f"unknown field {key!r}", f"known: {', '.join(sorted(known))}"
            )
        defaults = self._table("defaults", document.get("defaults", {}))
        if "on_daemon_death" in document:
            defaults = {**defaults, "on_daemon_death": document["on_daemon_death"]}
        sections = {"defaults": self._section("defaults", defaults)}
        for written, table in self._table("knob", document.get("knob", {})).items():
            name = self._name(written)
            if twin := self._twin(name, sections):
                what = f"{name} has two sections" + (f", as it is {twin}" if twin != name else "")
                raise self._wrong(written, "", what, "merge them")
            sections[name] = self._section(name, self._table(written, table), written)
        names = self._convert("", "forbidden", document.get("forbidden", []), list[str])
        for written in names:
            name = self._name(written, "forbidden")
            sections[name] = sections.get(name, Section()).overlaid(Section(forbidden=True))
            self._lines[name, "forbidden"] = self._at("", "forbidden")
        return Layer(self._path, sections, self._rules(document.get("rule", [])), self._lines)

    def _section(self, name: str, table: dict[str, Any], written: str = "") -> Section:
        header = written or name
        for key in table.keys() - set(Section.__struct_fields__):
            known = ", ".join(Section.__struct_fields__)
            raise self._wrong(header, key, f"unknown field {key!r}", f"known: {known}")
        for key, value in table.items():
            self._convert(header, key, {key: value}, Section)
            self._lines[name, key] = self._at(header, key)
        section = msgspec.convert(table, Section)
        self._check_numbers(header, section)
        if name == "defaults":
            for key in ("min", "max", "choices", "unsafe", "forbidden"):
                if key in table:
                    hint = 'put it into a section [knob."NAME"]'
                    raise self._wrong(header, key, f"{key} makes sense for one knob only", hint)
        else:
            self._check_knob(header, name.partition("@")[0], section)
        return section

    def _check_numbers(self, header: str, section: Section) -> None:
        if section.rate is not None and not _RATE.fullmatch(section.rate):
            raise self._wrong(header, "rate", f"rate {section.rate!r}", 'write "N per minute"')
        if section.burst is not None and not 1 <= section.burst <= 1000:
            raise self._wrong(header, "burst", f"burst {section.burst}", "write 1 to 1000")
        hold_s = section.max_hold_s
        if hold_s is not None and not 0.001 <= hold_s <= _MOST_HOLD_S:
            hint = f"write 0.001 to {_MOST_HOLD_S} seconds"
            raise self._wrong(header, "max_hold_s", f"max_hold_s {hold_s:g}", hint)
        if section.max_step is not None and section.max_step < 1:
            raise self._wrong(header, "max_step", f"max_step {section.max_step}", "write 1 or more")
        factor = section.max_step_factor
        if factor is not None and not 1.01 <= factor <= 1e6:
            hint = "write a number above 1, such as 2.0"
            raise self._wrong(header, "max_step_factor", f"max_step_factor {factor}", hint)

    def _check_knob(self, header: str, name: str, section: Section) -> None:
        knob = get_knob(name)
        if knob.kind == "enum":
            for key in ("min", "max", "max_step", "max_step_factor"):
                if getattr(section, key) is not None:
                    hint = "list the allowed choices with choices = [...]"
                    raise self._wrong(header, key, f"{name} is not a number and has no {key}", hint)
            for choice in section.choices or ():
                if choice not in knob.choices:
                    hint = f"it takes {', '.join(knob.choices)}"
                    raise self._wrong(header, "choices", f"{name} has no choice {choice!r}", hint)
            return
        if section.choices is not None:
            hint = "bound it with min and max"
            raise self._wrong(header, "choices", f"{name} is a number and has no choices", hint)
        if section.unsafe:
            return
        for key, value in (("min", section.min), ("max", section.max)):
            if value is not None and not knob.minimum <= value <= knob.maximum:
                raise self._wrong(
                    header,
                    key,
                    f"{key} = {value} is outside the safe bounds of {name}, "
                    f"{knob.minimum} to {knob.maximum}",
                    "a policy narrows; to widen, add unsafe = true",
                )

    def _rules(self, tables: object) -> tuple[RuleEntry, ...]:
        rules = []
        for entry in self._convert("rule", "", tables, list[RuleEntry]):
            try:
                knob, other = get_knob(entry.knob), get_knob(entry.other)
            except UsageError as error:
                raise self._wrong("rule", "", str(error), "") from None
            if knob.kind != "int" or other.kind != "int" or knob.target != other.target:
                hint = "both must be numbers of the same kind of target"
                raise self._wrong(
                    "rule", "", f"{knob.name} cannot be compared to {other.name}", hint
                )
            if knob == other:
                raise self._wrong("rule", "", f"{knob.name} is compared to itself", "use min, max")
            rules.append(RuleEntry(knob.name, entry.op, other.name, entry.offset))
        if rules:
            self._lines["rule", "rule"] = self._at("rule", "")
        return tuple(rules)

    def _name(self, written: str, key: str = "") -> str:
        # The name is a header, or stands in the list under that key.
        header = "" if key else written
        knob, at, target = written.partition("@")
        if "." not in knob:
            # [knob.vm.swappiness] is a table in a table: TOML wants the name in quotes.
            what, hint = (
                f"{knob!r} is not a knob",
                'write names in quotes, as in [knob."vm.swappiness"]',
            )
            raise self._wrong(header, key, what, hint)
        try:
            record = get_knob(knob)
            if at:
                self._check_target(record, target)
            return record.name + at + target
        except UsageError as error:
            raise self._wrong(header, key, str(error), "") from None

    def _check_target(self, knob: Knob, target: str) -> None:
        """UsageError for a target that can never have the knob."""
        if knob.target == "system" or target == "system":
            if target != knob.target:
                raise UsageError(f"{knob.name} is a knob of a {knob.target} target, not {target!r}")
            return
        if target.startswith("cgroup:") != (knob.target == "cgroup") or not target:
            hint = "such as cgroup:/system.slice" if knob.target == "cgroup" else "such as @vda"
            raise UsageError(f"{knob.name}@{target} names no {knob.target} target", hint=hint)
        if target.startswith(".") or "\0" in target:
            raise UsageError(f"{target!r} is not an absolute path", hint="write it from / on")
        try:
            parse_target(target, root=self._root)
        except UsageError:
            # One that is there and is not a target never becomes one: a partition, a plain file.
            there = self._root / target.lstrip("/")
            if "/" not in target:
                there = self._root / "sys/class/block" / target
            if there.exists() or any(part == ".." for part in target.split("/")):
                raise

    def _twin(self, name: str, sections: Mapping[str, Section]) -> str:
        """Another section of the same knob and target, however that is spelled, or ""."""
        if name in sections:
            return name
        knob, at, written = name.partition("@")
        if not at:
            return ""
        try:
            target = parse_target(written, root=self._root)
        except UsageError:
            return ""
        others = (n for n in sections if n.startswith(knob + at))
        return next((n for n in others if target.is_named(n[len(knob + at) :])), "")

    def _table(self, name: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong("", name, f"{name} must be a table", "see docs/policy.md")
        return value

    def _convert(self, header: str, key: str, value: object, type_: Any) -> Any:
        try:
            return msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            raise self._wrong(
                header,
                key,
                f"{key or header}: {str(error).partition(' - at ')[0]}",
                "see docs/policy.md",
            ) from None

    def _wrong(self, header: str, key: str, what: str, hint: str) -> PolicyError:
        return PolicyError(f"{self._at(header, key)}: {one_line(what, _LONG)}", hint=hint)

    def _at(self, header: str, key: str) -> str:
        """The place of a field as "file:line"; of its header where the field is inline."""
        line, inside = 0, not header
        for number, row in enumerate(self._rows, 1):
            row = row.strip()
            if row.startswith("["):
                inside = _header(row) == header
                line = line or (number if inside else 0)
            elif inside and key and re.match(rf'["\']?{re.escape(key)}["\']?\s*=', row):
                return f"{self._path}:{number}"
        if not line and header == "defaults":
            return self._at("", key)  # on_daemon_death stands above all tables
        return f"{self._path}:{line}" if line else str(self._path)


def _header(row: str) -> str:
    """The last name of a table's header: ``[knob."vm.swappiness"]``, ``[[rule]]``."""
    name = row.partition("#")[0].strip("[] ")
    quoted = re.search(r"""["']([^"']*)["']$""", name)
    return quoted[1] if quoted else name
