# SPDX-License-Identifier: Apache-2.0
"""``kmind knobs``: what can be set here, setting it by hand, and what drifted since."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kmind.cli.output import json_line, write
from kmind.errors import KmindError, PrivilegeError, UsageError
from kmind.guard import Actuator, Journal, Policy, Standing, find_standing
from kmind.knobs import (
    Knob,
    Target,
    Value,
    all_knobs,
    block_devices,
    get_knob,
    parse_target,
)
from kmind.paths import journal_path
from kmind.util.sqlite import is_database_there
from kmind.util.table import table

__all__ = ["ACTIONS", "SCHEMA", "knobs_command"]

SCHEMA = "kmind.knobs/1"

ACTIONS = ("show", "set", "verify")
"""Actions of the command."""

_WHO = "admin"


def knobs_command(
    action: str,
    words: Sequence[str],
    *,
    json: bool,
    dry_run: bool,
    policy_file: Path | None = None,
    root: Path = Path("/"),
) -> int:
    """Do it; 1 from ``verify`` if a knob holds something else than what we set.

    ``words``: for show a knob (also a family or a pattern, ``thp`` or ``vm.dirty*``), a
    target, or both; for set ``NAME=VALUE`` and perhaps a target.
    """
    if action == "set":
        return _set(words, Policy.load(policy_file), json=json, dry_run=dry_run, root=root)
    if dry_run:
        raise UsageError(f"{action} changes nothing", hint="-n goes with: kmind knobs set")
    if action == "verify":
        if words:
            raise UsageError(f"verify takes no words: {words[0]}", hint="kmind knobs verify")
        return _verify(json=json, root=root)
    return _show(words, Policy.load(policy_file), json=json, root=root)


# Showing


def _show(words: Sequence[str], policy: Policy, *, json: bool, root: Path) -> int:
    knobs, targets = _chosen(words, root)
    pairs = [(knob, target) for knob in knobs for target in targets if knob.target == target.kind]
    shown = [_describe(knob, target, policy) for knob, target in pairs if knob.exists(target)]
    if not shown:
        where = f"{targets[0]} has" if len(targets) == 1 else "this machine has"
        raise UsageError(f"{where} none of these knobs", hint="all are in: kmind knobs")
    if json:
        text = json_line(SCHEMA, {"knobs": shown}) + "\n"
    elif len({row["name"] for row in shown}) == 1 and words:
        text = "".join(map(_whole, shown))
    else:
        rows = [(row["name"], row["target"], _value(row), _bounds(row)) for row in shown]
        text = table(("knob", "target", "value", "bounds"), rows)
    write(text)
    return 0


def _chosen(words: Sequence[str], root: Path) -> tuple[list[Knob], list[Target]]:
    """The knobs and targets that the words name; all knobs, and the targets in use, without."""
    if len(words) > 2:
        raise UsageError(f"too many words: {words[2]}", hint="kmind knobs show [NAME] [TARGET]")
    knobs = list(all_knobs())
    rest = list(words)
    if rest and (matching := _matching(rest[0])):
        knobs = matching
        rest.pop(0)
    elif len(rest) == 2 or (rest and "." in rest[0] and "/" not in rest[0]):
        get_knob(rest[0])  # says what is wrong with the name
    if rest:
        return knobs, [parse_target(rest[0], root=root)]
    return knobs, list(_targets(root))


def _matching(word: str) -> list[Knob]:
    pattern = word.replace("-", "_")
    return [
        knob
        for knob in all_knobs()
        if fnmatchcase(knob.name, pattern) or knob.name.partition(".")[0] == pattern
    ]


def _targets(root: Path) -> Iterator[Target]:
    yield Target.system(root=root)
    for name in block_devices(root):
        with suppress(OSError, KmindError):
            zram = name.startswith("zram")
            if zram or (root / f"sys/block/{name}/size").read_text().strip() != "0":
                yield Target.block(name, root=root)


def _describe(knob: Knob, target: Target, policy: Policy) -> dict[str, Any]:
    report: dict[str, Any] = {"name": knob.name, "target": target.name, "value": None}
    with suppress(KmindError):
        report["value"] = knob.read(target)
    unknown = knob.kind == "enum" and report["value"] not in (None, "", *knob.choices)
    low, high = knob.limits(target)
    choices: Iterable[str] = ()
    forbidden = False
    try:
        choices = knob.available(target)
        bound = policy.bound(knob, target)
        low, high, forbidden = bound.minimum, bound.maximum, bound.forbidden
        choices = [c for c in choices if bound.choices >> knob.encode(c) & 1]
    except KmindError:
        forbidden = True  # no value is allowed
    note = knob.note
    if unknown:
        forbidden = True
        note = f"{report['value']} is a choice that kmind does not know: the knob is left alone."
    number = knob.kind == "int"
    return report | {
        "kind": knob.kind,
        "unit": knob.unit,
        "minimum": low if number else None,
        "maximum": high if number else None,
        "grid": knob.grid,
        "choices": list(choices),
        "rules": [str(rule) for rule in knob.rules],
        "forbidden": forbidden,
        "settle": knob.settle,
        "cost": knob.cost,
        "cost_why": knob.cost_why,
        "summary": knob.summary,
        "note": note,
        "reference": knob.reference,
        "file": knob.place(target),
    }


def _value(row: dict[str, Any]) -> str:
    value: Value | None = row["value"]
    if value is None:
        return "-"
    if row["kind"] != "int" and value not in ("", *get_knob(row["name"]).choices):
        return f"{value} (unknown)"
    unit: str = row["unit"]
    return f"{value}{unit[1:]}" if unit.startswith("1/") else f"{value} {unit}".rstrip()


def _bounds(row: dict[str, Any]) -> str:
    if row["forbidden"]:
        return "forbidden"
    if row["kind"] == "enum":
        return ", ".join(row["choices"])
    names = {number: word for word, number in get_knob(row["name"]).words}
    return f"{row['minimum']} to {names.get(row['maximum'], row['maximum'])}"


def _whole(row: dict[str, Any]) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    lines = [
        f"{row['name']} of {row['target']}: {row['value']}{unit}",
        f"    {row['summary']}. {row['note']}".rstrip(),
        f"    allowed: {_bounds(row)}{unit}"
        + (f", multiples of {row['grid']}" if row["grid"] > 1 else "")
        + "".join(f"; {rule}" for rule in row["rules"]),
        f"    a change works {'at once' if row['settle'] == 'instant' else 'slowly'}, "
        f"and costs: {row['cost']}. {row['cost_why']}",
        f"    {row['file']}; kernel: {row['reference']}",
    ]
    return "\n".join(lines) + "\n"


# Setting


def _set(words: Sequence[str], policy: Policy, *, json: bool, dry_run: bool, root: Path) -> int:
    knob, value, target = _wish(words, root)
    old = knob.read(target)
    how = _undo(knob, target, old, policy)
    changed = {"knob": knob.name, "target": target.name, "old": old, "value": value, "undo": how}
    if dry_run:
        others: dict[str, Value] = {}
        for rule in policy.bound(knob, target).rules:
            with suppress(KmindError):
                others[rule.other] = get_knob(rule.other).read(target)
        if refusal := policy.check(knob, target, value, old, others):
            raise refusal
        return _tell(changed, json, done=False, text=f"would set {_change(knob, target, changed)}")
    if os.geteuid() != 0:
        raise PrivilegeError("setting a knob writes to the kernel", hint="run as root")
    with Journal() as journal:
        actuator = Actuator(journal, policy, root=root)
        change = actuator.apply(knob, target, value, who=_WHO, why="kmind knobs set", by_admin=True)
        actuator.keep(change)
    text = f"set {_change(knob, target, changed)}; to undo: {how}"
    return _tell(changed | {"change": change.id}, json, done=True, text=text)


def _wish(words: Sequence[str], root: Path) -> tuple[Knob, Value, Target]:
    usage = "kmind knobs set NAME=VALUE [TARGET]"
    if not 1 <= len(words) <= 2:
        raise UsageError("set takes one NAME=VALUE and perhaps a target", hint=usage)
    name, equals, text = words[0].partition("=")
    if not equals:
        raise UsageError(f"{words[0]!r} sets nothing", hint=usage)
    knob = get_knob(name)
    if len(words) == 1 and knob.target != "system":
        raise UsageError(f"{knob.name} is a knob of a {knob.target} target", hint=usage)
    target = parse_target(words[1] if len(words) == 2 else "system", root=root)
    knob.check_kind(target)  # a target of another kind says so before the value does
    return knob, knob.parse(text), target


def _undo(knob: Knob, target: Target, old: Value, policy: Policy) -> str:
    # The previous value need not be within the policy's bounds.
    code = knob.encode_found(old, target)
    if policy.bound(knob, target).refuses(code, code):
        return knob.set_command(target, knob.format(old))
    where = "" if knob.target == "system" else f" '{target.name}'"
    return f"kmind knobs set {knob.name}={old}{where}"


def _change(knob: Knob, target: Target, changed: dict[str, Any]) -> str:
    unit = f" {knob.unit}" if knob.unit else ""
    return f"{knob.name} of {target}: {changed['old']} -> {changed['value']}{unit}"


def _tell(changed: dict[str, Any], json: bool, *, done: bool, text: str) -> int:
    write((json_line(SCHEMA, {"set": changed, "done": done}) if json else text) + "\n")
    return 0


# Verifying


def _verify(*, json: bool, root: Path) -> int:
    standings: list[Standing] = []
    if is_database_there(journal_path(), what="journal"):
        with Journal(read_only=True) as journal:
            standings = find_standing(journal, root=root)
    drifted = any(standing.state == "drifted" for standing in standings)
    if json:
        write(json_line(SCHEMA, {"knobs": [_standing(e) for e in standings]}) + "\n")
    else:
        lines = [_line(standing) for standing in standings] or [
            "No knobs have been set since boot."
        ]
        write("\n".join(lines) + "\n")
    return 1 if drifted else 0


def _standing(standing: Standing) -> dict[str, Any]:
    change = standing.change
    return {
        "name": change.knob,
        "target": change.target,
        "state": standing.state,
        "set": change.new,
        "value": standing.found,
        "old": change.old,
        "owner": str(change.owner),
        "change": change.id,
        "time": change.time,
        "why": standing.why,
    }


def _line(standing: Standing) -> str:
    change = standing.change
    what = f"{change.knob} of {change.target}"
    if standing.state == "drifted" and standing.found is None:
        return f"{what}: {change.owner} set {change.new}, and it cannot be read: {standing.why}"
    if standing.state == "drifted":
        return f"{what}: {change.owner} set {change.new}, and it holds {standing.found}"
    if standing.state == "measured":
        return f"{what}: {standing.found}, while {change.owner} compares it with {change.new}"
    if standing.state == "left":
        return f"{what}: {standing.found}, left by {change.owner}; to put it back: kmind restore"
    return f"{what}: {standing.found}, as {change.owner} set it"
