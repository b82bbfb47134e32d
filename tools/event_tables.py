# SPDX-License-Identifier: Apache-2.0
"""Write tables of docs/output.md: events from `kmind.events`, counters from `kmind/abi.h`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import kmind
from kmind.events import EVENTS, Event, fields_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "output.md"
BEGIN = "<!-- tools/event_tables.py writes from here -->\n"
END = "<!-- to here -->\n"
BEGIN_COUNTERS = "<!-- tools/event_tables.py writes the counters from here -->\n"
END_COUNTERS = "<!-- to here, the counters -->\n"
LAYOUT = Path(kmind.__file__).parent / "include" / "kmind" / "abi.h"


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


def counters() -> str:
    """Return the table of what an agent counts, with the comments of KMIND_COUNTERS."""
    listed = LAYOUT.read_text().partition("#define KMIND_COUNTERS(X)")[2].partition("#define")[0]
    found = re.findall(r"X\((\w+)\)\s*/\* (.+?) \*/", listed)
    if len(found) != listed.count("X("):
        sys.exit(f"{LAYOUT}: each name in KMIND_COUNTERS needs a comment")
    rows = ["| counter | counts |", "|---|---|", *(f"| `{n}` | {text} |" for n, text in found)]
    return "\n".join(rows) + "\n"


def written(page: str, begin: str, end: str, made: Callable[[], str]) -> str:
    """Return the page with what was made between two of its lines."""
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        sys.exit(f"{PAGE} lacks the lines between which the tables stand")
    return head + begin + "\n" + made() + "\n" + end + tail


def main() -> None:
    """Write the page."""
    page = written(PAGE.read_text(), BEGIN, END, tables)
    PAGE.write_text(written(page, BEGIN_COUNTERS, END_COUNTERS, counters))


if __name__ == "__main__":
    main()
