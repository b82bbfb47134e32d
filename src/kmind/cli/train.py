# SPDX-License-Identifier: Apache-2.0
"""``kmind train``: a model from recordings, by the module's own recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmind.cli.output import json_line, write
from kmind.errors import UsageError
from kmind.extension import find_module
from kmind.learn.train import load_recipe, read_data, train
from kmind.util.table import table

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
        raise UsageError(f"{output} exists already", hint="name another file")
    recipe = load_recipe(module)
    file = train(module, recipe, read_data(data, module), seed=seed)
    file.save(output)
    if json:
        report = {"output": str(output), "hash": file.hash, "card": file.card}
        write(json_line(SCHEMA, report) + "\n")
        return 0
    card, rows = file.card, file.card["rows"]
    write(f"{card['family']} of {rows['train']:,} windows, for {', '.join(card['classes'])}\n")
    for part, title in (
        ("later", f"the same loads, later ({rows['later']:,} windows)"),
        (
            "unseen",
            f"loads not trained on: {', '.join(card['held_out_scores'])} ({rows['unseen']:,})",
        ),
    ):
        if part in card["scores"]:
            write(_table(title, card["scores"][part]))
    if len(card["held_out_scores"]) > 1:
        for name, scores in card["held_out_scores"].items():
            write(_table(f"of these, {name}", scores))
    for limit in card["limits"]:
        write(f"- {limit}\n")
    write(f"{output}: {file.hash}\n")
    return 0


def _table(title: str, scores: dict[str, Any]) -> str:
    columns = [name for name in ("balanced_accuracy", "payoff") if name in scores["model"]]
    rows = [
        (_NAMES[name], *(_number(score[measure]) for measure in columns))
        for name, score in scores.items()
    ]
    return f"\n{title}\n" + table(("", *(name.replace("_", " ") for name in columns)), rows)


def _number(score: dict[str, Any]) -> str:
    if score["interval"] is None:
        return f"{score['value']:.3f}"
    low, high = score["interval"]
    return f"{score['value']:.3f} ({low:.3f} to {high:.3f})"
