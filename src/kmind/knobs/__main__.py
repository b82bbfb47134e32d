# SPDX-License-Identifier: Apache-2.0
"""Print the table of knobs for the documentation: ``python -m kmind.knobs``."""

from __future__ import annotations

from kmind.knobs import Knob, all_knobs

__all__ = ["table"]


def table() -> str:
    """The table of all knobs in Markdown, one row a knob, ending in a newline."""
    rows = [
        "| knob | what it sets | values | unit | works | what a change costs "
        "| kernel documentation |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| `{knob.name}` | {_about(knob)} | {_values(knob)} | {knob.unit} | {knob.settle} "
        f"| {knob.cost}: {knob.cost_why} | {knob.reference} |"
        for knob in all_knobs()
    ]
    return "\n".join(rows) + "\n"


def _about(knob: Knob) -> str:
    return f"{knob.summary}. {knob.note}".rstrip()


def _values(knob: Knob) -> str:
    if knob.kind == "enum":
        return ", ".join(f"`{choice}`" for choice in knob.choices)
    names = {number: word for word, number in knob.words}
    text = f"{knob.minimum} to {names.get(knob.maximum, knob.maximum)}"
    if knob.memory_percent:
        text += f", at most {knob.memory_percent}% of memory"
    if knob.grid > 1:
        text += ", multiples of the page size"
    return text + "".join(f"; {rule.op} `{rule.other}`" for rule in knob.rules)


if __name__ == "__main__":
    print(table(), end="")
