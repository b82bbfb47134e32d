# SPDX-License-Identifier: Apache-2.0
"""User ids for extensions: each has its own, and shares it with nobody.

systemd hands out 61184 to 65519 (DynamicUser=) without looking at running processes, so one of its
services could get an extension's id, and its files. These come from 60706 to 61183, which its table
(docs/UIDS-GIDS.md) gives as unused: above regular users and systemd-homed's, and within the 16 bits
that containers map.
"""

from __future__ import annotations

import pwd
import zlib
from pathlib import Path

from kmind.abi import layout
from kmind.errors import PrivilegeError

__all__ = ["FIRST_UID", "LAST_UID", "free_uid"]

FIRST_UID = layout.LIMIT["FIRST_UID"]
"""The first of them; agents know extensions by the range."""

LAST_UID = FIRST_UID + layout.LIMIT["UIDS"] - 1
"""The last."""


def free_uid(seed: str) -> int:
    """A user id that no account and no process has, stable for ``seed`` while it is free.

    Raises PrivilegeError where all are taken.
    """
    taken = _uids_in_use()
    count = LAST_UID - FIRST_UID + 1
    start = zlib.crc32(seed.encode())
    for step in range(count):
        uid = FIRST_UID + (start + step) % count
        if uid not in taken and not _has_account(uid):
            return uid
    raise PrivilegeError(f"no user id from {FIRST_UID} to {LAST_UID} is free")


def _uids_in_use() -> set[int]:
    uids: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text(errors="replace")  # a name may be any bytes
        except OSError:
            continue  # it ended meanwhile
        line = next(line for line in text.splitlines() if line.startswith("Uid:"))
        uids.update(int(word) for word in line.split()[1:])
    return uids


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
