# SPDX-License-Identifier: Apache-2.0
"""Write the tables of events in docs/output.md from the records of `kmind.events`."""

from __future__ import annotations

import sys
from pathlib import Path

from kmind.events import EVENTS, Event, fields_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "output.md"
BEGIN = "<!-- tools/event_tables.py writes from here -->\n"
END = "<!-- to here -->\n"


def tables() -> str:
    """Return both tables: the events, and their fields."""
    rows = ["| event | when | told in | fields |", "|---|---|---|---|"]
    rows += [
        f"| `{_name(kind)}` | {_when(kind)} | {_where(kind)} | {_fields(kind)} |" for kind in EVENTS
    ]
    meanings: dict[tuple[str, str], list[str]] = {}
    for kind in EVENTS:
        for field, (text, _) in fields_of(kind).items():
            meanings.setdefault((field, text), []).append(_name(kind))
    rows += ["", "| field | of | content |", "|---|---|---|"]
    for (field, text), kinds in meanings.items():
        alone = sum(name == field for name, _ in meanings) == 1
        many = alone and len(kinds) > 3
        of = "all that have it" if many else ", ".join(f"`{kind}`" for kind in kinds)
        rows.append(f"| `{field}` | {of} | {text} |")
    return "\n".join(rows) + "\n"


def _name(kind: type[Event]) -> str:
    return str(kind.__struct_config__.tag)


def _when(kind: type[Event]) -> str:
    return " ".join((kind.__doc__ or "").split()).removesuffix(".")


def _where(kind: type[Event]) -> str:
    places = {"stream": kind.streamed, "log": kind.logged, "audit": kind.audited}
    return ", ".join(place for place, told in places.items() if told)


def _fields(kind: type[Event]) -> str:
    fields = fields_of(kind).items()
    return ", ".join(f"`{name}`" if always else f"[`{name}`]" for name, (_, always) in fields)


def main() -> None:
    """Write the page."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        sys.exit(f"{PAGE} lacks the lines between which the tables stand")
    PAGE.write_text(head + BEGIN + "\n" + tables() + "\n" + END + tail)


if __name__ == "__main__":
    main()
