# SPDX-License-Identifier: Apache-2.0
"""One kept line of JSON for each form of each event, and events made from them.

Readers of the log and of the API rely on the names and fields in tests/events.jsonl. The file was
written before `kmind.events` was: change a line there only where the output is to change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kmind import events

SAMPLES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "events.jsonl").read_text().splitlines()
]


def make(name: str, **fields: Any) -> events.Event:
    """Return an event of that name: as the first kept one, but for these fields."""
    sample = next(each for each in SAMPLES if each["event"] == name)
    kind = next(each for each in events.EVENTS if each.__struct_config__.tag == name)
    return kind(**{name: value for name, value in sample.items() if name != "event"} | fields)


def line(name: str, **fields: Any) -> str:
    """Return such an event as a line of JSON."""
    event = make(name, **fields)
    return json.dumps({"event": event.name, **event.fields()})
