# SPDX-License-Identifier: Apache-2.0
"""Files and folders of kmind on a machine: each is named here, and nowhere else.

``KMIND_STATE_DIR``, ``KMIND_RUN_DIR`` and ``KMIND_CACHE_DIR`` name folders in place of those in
/var/lib, /run and /var/cache (file-hierarchy(7)).
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "ADMIN",
    "AUDIT_LOG",
    "CONF_FOLDERS",
    "CREDENTIALS",
    "LOG",
    "PINS",
    "RUN",
    "VENDOR",
    "advice_path",
    "cache_folder",
    "evidence_path",
    "findings_path",
    "journal_path",
    "memory_folder",
    "run_folder",
    "socket_path",
    "state_folder",
]

ADMIN = Path("/etc/kmind")
"""Folder of the admin: ``policy.toml``, and ``policy.d``, ``modules`` and ``modules.d``."""

VENDOR = Path("/usr/lib/kmind")
"""Folder of packages, with the same names."""

CONF_FOLDERS = (VENDOR / "modules.d", ADMIN / "modules.d")
"""Folders that say how modules are loaded; a later folder's file replaces an earlier one's."""

CREDENTIALS = ADMIN / "netrc"
"""Names and passwords by host, as netrc(5) has them: root's alone, mode 0600."""

LOG = Path("/var/log/kmind/kmind.log")
"""All that happens in the daemon."""

AUDIT_LOG = Path("/var/log/kmind/audit.log")
"""Changes, and who asked for them, once more."""

PINS = Path("/sys/fs/bpf/kmind")
"""Folder of the daemon's pinned BPF objects."""

RUN = Path("/run/kmind")
"""Default folder of state that ends with the boot; ``KMIND_RUN_DIR`` overrides it."""


def state_folder() -> Path:
    """Return where stores are that outlive the boot."""
    return Path(os.environ.get("KMIND_STATE_DIR") or "/var/lib/kmind")


def run_folder() -> Path:
    """Return where the daemon's socket and the state of its instances are."""
    return Path(os.environ.get("KMIND_RUN_DIR") or RUN)


def cache_folder() -> Path:
    """Return where large files are that may be deleted at any time.

    Of a user who is not root: ``$XDG_CACHE_HOME/kmind``, or ~/.cache/kmind.
    """
    if chosen := os.environ.get("KMIND_CACHE_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/cache/kmind")
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "kmind"


def socket_path() -> Path:
    """Return the socket of the daemon's API."""
    return run_folder() / "api.sock"


def journal_path() -> Path:
    """Return the journal of changes; other stores lie beside it."""
    return state_folder() / "journal.db"


def advice_path(journal: Path) -> Path:
    """Return the store of advice that belongs to a journal."""
    return journal.with_name("advice.db")


def evidence_path(journal: Path) -> Path:
    """Return the store of experiments that belongs to a journal."""
    return journal.with_name("evidence.db")


def findings_path(journal: Path) -> Path:
    """Return the store of findings and reports that belongs to a journal."""
    return journal.with_name("findings.db")


def memory_folder(journal: Path) -> Path:
    """Return where is kept what extensions remember, beside a journal."""
    return journal.with_name("memory")
