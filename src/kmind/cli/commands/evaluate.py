# SPDX-License-Identifier: Apache-2.0
"""``kmind evaluate``: an experiment by hand."""

from __future__ import annotations

from kmind.cli.options import JSON, MODULE, POLICY, TARGET
from kmind.command import Argument, Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.evaluate import evaluate_command

    return evaluate_command(
        words["module"],
        words["target"],
        words["change"],
        against=words["against"],
        duration_s=words["duration"],
        metric=words["metric"] or "",
        policy_file=words["policy"],
        json=words["json"],
    )


COMMAND = Command(
    "evaluate",
    "In the foreground",
    "Compare two values of a knob by an experiment, under the present load.",
    _run,
    arguments=(
        MODULE,
        TARGET,
        Argument("change", "the value to try", metavar="KNOB=VALUE"),
    ),
    options=(
        Option("against", "the value to compare with (default: the current value)"),
        Option("duration", "time limit in seconds", convert=float, default=60.0, minimum=2),
        Option("metric", "outcome of the module to compare by (default: its first)"),
        POLICY,
        JSON,
    ),
    examples=("kmind evaluate readahead vda block.read_ahead_kb=16 --against 128",),
)
