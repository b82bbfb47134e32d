# SPDX-License-Identifier: Apache-2.0
"""Names of instances where there is room for few bytes, and for no dots.

An instance on a cgroup is named by the cgroup's whole path, which may have 4,096 bytes. The
kernel keeps 47 of a name (``struct kmind_instance``), a file's name has 255, and one in a
bpf file system no dot (``bpf_lookup``, kernel/bpf/inode.c).
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["FILE_NAME_BYTES", "file_name"]

FILE_NAME_BYTES = 47
"""The most that ``file_name`` returns."""

_DIGITS = 16
_MARKED = re.compile(rf"~[0-9a-f]{{{_DIGITS}}}$")


def file_name(instance: str) -> str:
    """The name of an instance's pins, files and cgroup, and of it in the core object.

    As it is where it fits, with ":" for each dot. Where that would be too long, or could be
    another one's, it ends in "~" and 64 bits of the whole name's SHA-256: whoever may make
    cgroups cannot make one whose instance takes the place of another's.
    """
    shown = instance.replace(".", ":")
    # Of a name with a colon of its own nobody could tell which were dots.
    own = ":" in instance.replace("@cgroup:", "", 1)
    fits = len(shown.encode()) <= FILE_NAME_BYTES
    if fits and not own and not _MARKED.search(shown):
        return shown
    digest = hashlib.sha256(instance.encode()).hexdigest()[:_DIGITS]
    room = FILE_NAME_BYTES - len(digest) - 1
    return shown.encode()[:room].decode(errors="ignore") + "~" + digest
