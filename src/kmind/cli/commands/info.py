# SPDX-License-Identifier: Apache-2.0
"""``kmind info``: all about one module."""

from __future__ import annotations

from kmind.cli.options import JSON, MODULE
from kmind.command import Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.info import info_command

    return info_command(words["module"], field=words["field"], json=words["json"])


COMMAND = Command(
    "info",
    "First steps",
    "Show everything about a module, or one field of it.",
    _run,
    arguments=(MODULE,),
    options=(Option("field", "only this field, such as aliases", short="-F"), JSON),
    examples=("kmind info readahead -F parameters",),
)
