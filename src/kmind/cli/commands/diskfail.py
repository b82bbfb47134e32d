# SPDX-License-Identifier: Apache-2.0
"""``kmind diskfail``: disks that will fail, by what they say of themselves."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON
from kmind.command import Argument, Command, Words

__all__ = ["COMMAND"]

_GROUP = "Disks"


def _check(words: Words) -> int:
    from kmind.cli.diskfail import check_command

    return check_command(words["files"], json=words["json"])


_MEMBERS = (
    Command(
        "diskfail check",
        _GROUP,
        "Check saved output of smartctl --json: facts, doubts and state of each disk.",
        _check,
        arguments=(
            Argument(
                "files",
                "files in the order of time, or folders, whose *.json are taken by name",
                convert=Path,
                many=True,
            ),
        ),
        options=(JSON,),
        details=(
            "Needs no root and asks no disk. Of a disk that stands in several files it tells each "
            "reason once, and again when its count has doubled. A file that cannot be read is one "
            "line, and the exit code 1; all others are read."
        ),
        examples=("kmind diskfail check sda.json", "kmind diskfail check saved --json"),
    ),
)

COMMAND = Command(
    "diskfail",
    _GROUP,
    "Tell which disks are failing, by their SMART and NVMe logs.",
    examples=("kmind diskfail check sda.json",),
    commands=_MEMBERS,
)
