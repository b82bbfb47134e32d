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
    "Measure whether another value is better under the present load.",
    _run,
    arguments=(
        MODULE,
        TARGET,
        Argument("change", "what to try", metavar="KNOB=VALUE"),
    ),
    options=(
        Option("against", "the value to compare with; without it what is set now"),
        Option("duration", "seconds at most", convert=float, default=60.0, minimum=2),
        Option("metric", "which outcome of the module; without it its first"),
        POLICY,
        JSON,
    ),
    examples=("kmind evaluate readahead vda block.read_ahead_kb=16 --against 128",),
)
