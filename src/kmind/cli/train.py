# SPDX-License-Identifier: Apache-2.0
"""``kmind train``: a model from recordings, by the module's own recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kmind.cli.output import json_line, write
from kmind.errors import UsageError
from kmind.extension import find_module
from kmind.learn.train import load_recipe, read_data, train

__all__ = ["SCHEMA", "train_command"]

SCHEMA = "kmind.train/1"

_NAMES = {
    "model": "the model, in integers",
    "float": "the model, before",
    "majority": "always the same",
    "rule": "a simple rule",
    "logistic": "logistic regression",
}


def train_command(module_name: str, data: Path, output: Path, *, seed: int, json: bool) -> int:
    """Train, write one model file, and show how it did beside the baselines."""
    module = find_module(module_name)
    if output.exists():
        raise UsageError(f"{output} is there already", hint="name another file")
    recipe = load_recipe(module)
    made = train(module, recipe, read_data(data, module), seed=seed)
    made.save(output)
    if json:
        report = {"output": str(output), "hash": made.hash, "card": made.card}
        write(json_line(SCHEMA, report) + "\n")
        return 0
    card, console = made.card, Console(file=sys.stdout)
    rows = card["rows"]
    console.print(
        f"{card['family']} of {rows['train']:,} windows, for {', '.join(card['classes'])}",
        highlight=False,
    )
    for part, title in (
        ("later", f"the same loads, later ({rows['later']:,} windows)"),
        (
            "unseen",
            f"loads not trained on: {', '.join(card['held_out_scores'])} ({rows['unseen']:,})",
        ),
    ):
        if part in card["scores"]:
            console.print(_table(title, card["scores"][part]))
    if len(card["held_out_scores"]) > 1:
        for name, scores in card["held_out_scores"].items():
            console.print(_table(f"of these, {name}", scores))
    for limit in card["limits"]:
        console.print(f"- {limit}", highlight=False)
    console.print(f"{output}: {made.hash}", highlight=False, soft_wrap=True)
    return 0


def _table(title: str, scores: dict[str, Any]) -> Table:
    found = [name for name in ("balanced_accuracy", "payoff") if name in scores["model"]]
    table = Table("", *(name.replace("_", " ") for name in found), title=title)
    for name, each in scores.items():
        table.add_row(_NAMES[name], *(_number(each[measure]) for measure in found))
    return table


def _number(each: dict[str, Any]) -> str:
    if each["interval"] is None:
        return f"{each['value']:.3f}"
    low, high = each["interval"]
    return f"{each['value']:.3f} ({low:.3f} to {high:.3f})"
