# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that several commands have, each with one wording."""

from __future__ import annotations

from pathlib import Path

from kmind.command import Argument, Flag, Option
from kmind.paths import ADMIN, RUN

__all__ = [
    "DRY_RUN",
    "INSTANCE",
    "JSON",
    "MODE_HELP",
    "MODULE",
    "PARAMETERS",
    "POLICY",
    "SOCKET",
    "TARGET",
    "WORDS",
]

MODE_HELP = (
    "observe: only record; advise: recommend changes; canary: change briefly, to measure; "
    "auto: change, and keep gains"
)
"""Meaning of each mode, for help texts."""

JSON = Flag("json", "write JSON, with its schema")
SOCKET = Option("socket", f"the daemon's socket, if not {RUN}/api.sock", convert=Path)
POLICY = Option("policy", f"use this policy, not those in {ADMIN}", convert=Path)
DRY_RUN = Flag("dry-run", "only show what would be done", short="-n")
INSTANCE = Argument("name", "an instance, such as readahead@vda (see: kmind list)")
MODULE = Argument("module", "a module (see: kmind modules), or a folder with a module.toml")
TARGET = Argument("target", "a block device such as vda, a cgroup (cgroup:/PATH), or: system")
PARAMETERS = Argument(
    "parameters", "its parameters", metavar="NAME=VALUE", many=True, required=False
)
WORDS = Argument(
    "words",
    "its target and parameters",
    metavar="TARGET NAME=VALUE",
    many=True,
    required=False,
)
