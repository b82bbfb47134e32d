# SPDX-License-Identifier: Apache-2.0
"""``kmind doctor``: what this machine has of what kmind needs."""

from __future__ import annotations

import sys

from kmind.cli.options import JSON
from kmind.command import Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.doctor import run_doctor

    return run_doctor(json=words["json"], out=sys.stdout)


COMMAND = Command(
    "doctor",
    "First steps",
    "Check this machine for the features that kmind needs, and show the cost of gaps.",
    _run,
    options=(JSON,),
    examples=("kmind doctor",),
)
