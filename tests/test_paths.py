# SPDX-License-Identifier: Apache-2.0
"""Files and folders of kmind: where they are, and that each is named in one place."""

import ast
import os
from pathlib import Path

import pytest

from kmind.paths import CONF_FOLDERS, cache_folder, journal_path, socket_path

PACKAGE = Path(__file__).parent.parent / "src/kmind"
OURS = (
    "/etc/kmind", "/usr/lib/kmind", "/var/lib/kmind", "/var/log/kmind", "/var/cache/kmind",
    "/run/kmind", "/sys/fs/bpf/kmind",
)  # fmt: skip


def test_the_places_are_those_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KMIND_STATE_DIR", "KMIND_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert journal_path() == Path("/var/lib/kmind/journal.db")
    assert socket_path() == Path("/run/kmind/api.sock")
    assert [str(folder) for folder in CONF_FOLDERS] == [
        "/usr/lib/kmind/modules.d", "/etc/kmind/modules.d",
    ]  # fmt: skip


def test_cache_is_a_folder_that_only_its_owner_can_write_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KMIND_CACHE_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cache_folder() == Path("/var/cache/kmind")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kmind"
    monkeypatch.setenv("KMIND_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_no_other_source_names_them() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "paths.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith((*OURS, *(place[1:] for place in OURS)))
    ]
    assert not found, "name it in paths.py"
