# SPDX-License-Identifier: Apache-2.0
"""``kmind advice``: what the instances recommend, and what becomes of it."""

from __future__ import annotations

import json as json_
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmind.cli.client import Client, path_to
from kmind.cli.output import json_line, write
from kmind.errors import UsageError
from kmind.util.table import table

__all__ = ["ACTIONS", "advice_command"]

ACTIONS = ("list", "show", "apply", "reject", "undo")
"""Actions on advice; all but the first need its id."""


def advice_command(
    action: str, id: str | None, *, all: bool, json: bool, socket: Path | None
) -> int:
    """Do it, and say what changed and how to undo it. ``all`` lists what is settled too."""
    client = Client(socket)
    if action == "list":
        if id is not None:
            raise UsageError(f"list takes no id: {id}", hint=f"try: kmind advice show {id}")
        answer = client.get("/v1/advice")
        if not all:
            kept = ("open", "applied")
            answer["advice"] = [a for a in answer["advice"] if a["state"] in kept]
        return _say(answer, json, _table(answer["advice"]))
    if id is None:
        raise UsageError(f"{action} needs an id", hint="see: kmind advice list")
    if action == "show":
        answer = client.get(path_to("advice", id))
        return _say(answer, json, _whole(answer["advice"][0]))
    answer = client.call("POST", f"{path_to('advice', id)}/{action}")
    return _say(answer, json, _done(action, answer["advice"][0]))


def _say(answer: dict[str, Any], json: bool, text: str) -> int:
    write(json_line(answer.pop("schema"), answer) + "\n" if json else text)
    return 0


def _table(advice: list[dict[str, Any]]) -> str:
    if not advice:
        return "There is no advice.\n"
    rows = [(a["id"], a["instance"], _change(a), _state(a), a.get("reason", "")) for a in advice]
    return table(("id", "instance", "change", "state", "reason"), rows)


def _change(advice: Mapping[str, Any]) -> str:
    return f"{advice['knob']} {advice.get('current', '?')} -> {advice.get('value', '?')}"


def _state(advice: Mapping[str, Any]) -> str:
    # Of what was refused: by which check of the agent.
    if advice["state"] == "refused" and advice.get("verdict"):
        return f"refused: {advice['verdict']}"
    return str(advice["state"])


def _whole(advice: Mapping[str, Any]) -> str:
    lines = [f"{advice['id']}: {advice['instance']} advises {_change(advice)} ({_state(advice)})"]
    if advice.get("reason"):
        lines.append(f"    why: {advice['reason']}")
    for name, value in (advice.get("evidence") or {}).items():
        lines.append(f"    evidence: {name} = {json_.dumps(value)}")
    if advice.get("predicted") is not None:
        lines.append(f"    predicted effect: {advice['predicted']}")
    if advice["state"] == "open" and advice.get("expires"):
        lines.append(f"    expires in {max(0.0, advice['expires'] - time.time()):.0f} s")
    if advice.get("remark"):
        lines.append(f"    {advice['remark']}")
    if advice.get("command"):
        lines.append(f"    by hand: {advice['command']}")
    return "\n".join(lines) + "\n"


def _done(action: str, advice: Mapping[str, Any]) -> str:
    number, change = advice["id"], _change(advice)
    match action:
        case "apply":
            return f"applied {number}: {change}; to undo: kmind advice undo {number}\n"
        case "undo":
            return f"undone {number}: {advice['knob']} is put back\n"
    return f"rejected {number}: {change} will not be advised again for a while\n"
