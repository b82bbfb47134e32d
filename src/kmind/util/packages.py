# SPDX-License-Identifier: Apache-2.0
"""Names of the packages that people install on their distribution, and the command that does it.

The distribution is known by ``ID`` and ``ID_LIKE`` of os-release(5). That file only selects a row
of the table below: nothing of its text is shown.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["OS_RELEASE", "PACKAGES", "distribution", "install_hint"]

OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))
"""Places of the file; the first that can be read counts."""

_COMMANDS: Mapping[str, str] = {
    "debian": "apt install",
    "ubuntu": "apt install",
    "fedora": "dnf install",
    "arch": "pacman -S",
    "suse": "zypper install",
}
# Other words for them, in ID or ID_LIKE.
_ALIASES: Mapping[str, str] = {"archlinux": "arch", "opensuse": "suse", "rhel": "fedora"}

_KERNEL_TOOLS = "linux-tools-common linux-tools-$(uname -r)"

# Where no package is known to have a program, it is named as its makers call it.
# Sources, read in November 2026: the package lists of Debian, Ubuntu, Fedora and Arch, and the
# openSUSE Build Service.
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "libbpf": {
        "debian": "libbpf1",
        "ubuntu": "libbpf1",
        "fedora": "libbpf",
        "arch": "libbpf",
        "suse": "libbpf1",
    },
    "clang": {
        "debian": "clang-19",
        "ubuntu": "clang-19",
        "fedora": "clang",
        "arch": "clang",
        "suse": "clang",
    },
    "bpftool": {
        "debian": "bpftool",
        # A package of its own since 25.04 (Launchpad bug 2007308).
        "ubuntu": f"bpftool (before 25.04: {_KERNEL_TOOLS})",
        "fedora": "bpftool",
        "arch": "bpf",
        "suse": "bpftool",
    },
    "fio": dict.fromkeys(_COMMANDS, "fio"),
    "db_bench": {"debian": "rocksdb-tools", "ubuntu": "rocksdb-tools"},
    "redis-server": {
        "debian": "redis-server",
        "ubuntu": "redis-server",
        "fedora": "valkey-compat-redis",
        "arch": "valkey",
    },
    "redis-benchmark": {
        "debian": "redis-tools",
        "ubuntu": "redis-tools",
        "fedora": "valkey-compat-redis",
        "arch": "valkey",
    },
    "postgresql": {"debian": "postgresql", "ubuntu": "postgresql"},
    "tuned": {"debian": "tuned", "ubuntu": "tuned", "fedora": "tuned", "arch": "tuned"},
}
"""Package by distribution, for each program or library that kmind may ask for."""

_UPSTREAM = {"db_bench": "db_bench of RocksDB"}

_MOST_BYTES = 1 << 16
_FIELD = re.compile(rb"""^(ID|ID_LIKE)=(["']?)([a-z0-9._ -]*)\2\s*$""", re.MULTILINE)


def install_hint(name: str, version: str = "") -> str:
    """Say how to install a program or library here: ``apt install fio``, or ``install fio``.

    ``version`` says which will do, such as "1.1 or later". KeyError if the table has no ``name``.
    """
    known = distribution()
    package = PACKAGES[name].get(known, "")
    if not package:
        return " ".join(["install", _UPSTREAM.get(name, name), *version.split()])
    return f"{_COMMANDS[known]} {package}" + (f" ({version})" if version else "")


def distribution() -> str:
    """Column of the table for this system, or "": its own, or the first that it is like."""
    fields: dict[bytes, bytes] = {}
    for path in OS_RELEASE:
        with suppress(OSError):
            # As for a shell, which may read the file: the last assignment counts.
            fields = {key: value for key, _, value in _FIELD.findall(_read(path))}
            break
    words = b" ".join(fields.get(key, b"") for key in (b"ID", b"ID_LIKE")).decode()
    return next((found for word in words.split() if (found := _column(word))), "")


def _column(word: str) -> str:
    # openSUSE's IDs are opensuse-leap, opensuse-tumbleweed, ...
    word = _ALIASES.get(word, _ALIASES.get(word.partition("-")[0], word))
    return word if word in _COMMANDS else ""


def _read(path: Path) -> bytes:
    # A FIFO that stands there would hold us up, and a device never ends.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a file")
        return file.read(_MOST_BYTES)
