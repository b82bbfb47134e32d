# SPDX-License-Identifier: Apache-2.0
"""``kmind knobs``: the kernel settings that kmind knows."""

from __future__ import annotations

from kmind.cli.options import DRY_RUN, JSON, POLICY
from kmind.command import Argument, Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.knobs import knobs_command

    return knobs_command(
        words["action"],
        words["words"],
        json=words["json"],
        dry_run=words["dry_run"],
        policy_file=words["policy"],
    )


COMMAND = Command(
    "knobs",
    "Kernel settings",
    "Show kernel settings, set one by hand, or look for drift.",
    _run,
    arguments=(
        Argument(
            "action",
            "show: list knobs with values and bounds; set: set one, within the policy; "
            "verify: find knobs whose values were changed since",
            choices=("show", "set", "verify"),
            required=False,
            default="show",
        ),
        Argument(
            "words",
            "a knob, a family or a pattern; then a disk, a cgroup (cgroup:/PATH), or: system",
            metavar="NAME[=VALUE]",
            many=True,
            required=False,
        ),
    ),
    options=(POLICY, JSON, DRY_RUN),
    examples=("kmind knobs show vm", "kmind knobs set vm.swappiness=10"),
)
