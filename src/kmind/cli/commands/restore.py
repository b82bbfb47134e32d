# SPDX-License-Identifier: Apache-2.0
"""``kmind restore``: what an instance left changed is put back."""

from __future__ import annotations

from kmind.cli.options import DRY_RUN, JSON
from kmind.command import Command, Flag, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.restore import restore_command

    return restore_command(json=words["json"], force=words["force"], dry_run=words["dry_run"])


COMMAND = Command(
    "restore",
    "Kernel settings",
    "Put back every knob that a dead instance left changed.",
    _run,
    options=(JSON, Flag("force", "also put back the knobs that running instances hold"), DRY_RUN),
    examples=("kmind restore --dry-run",),
)
