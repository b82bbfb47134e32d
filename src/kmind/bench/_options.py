# SPDX-License-Identifier: Apache-2.0
"""Options that several benches have, each with one wording."""

from pathlib import Path

from kmind.command import Option

__all__ = ["DEVICE", "DIR", "ONLY"]

DIR = Option("dir", "folder for the files that are read", Path)
DEVICE = Option("device", "the disk, if it is not the one that holds --dir", metavar="DISK")
ONLY = Option("only", "only this load; repeatable", many=True, metavar="LOAD")
