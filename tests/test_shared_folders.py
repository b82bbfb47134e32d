# SPDX-License-Identifier: Apache-2.0
"""No source writes to a known name in a folder where anybody can make that name first."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = re.compile(r"(?<![\w./-])(?:/var/tmp|/tmp|/dev/shm)(?:/[\w.{$*-]|['\"])")

# Where such a name is no place to write to, and why.
ALLOWED = {
    "tests/test_shared_folders.py": "looks for them",
    "tests/runtime/sandbox/confine/test_privileges.py": "a sandboxed process is refused there",
    "tests/runtime/sandbox/confine/test_own_root.py": "is compared with",
    "tests/kernel/attacks/extension.py": "a hostile extension is refused there",
    "tests/runtime/supervisor/test_state_folder.py": "is a text in a record, and no place",
    "tests/serve/test_peers.py": "is compared with",
    "tests/machine.py": "looks for what was left there",
    "tests/vm/lsm_script.py": "runs alone in a virtual machine",
}


def _sources() -> list[Path]:
    names = ("src", "tests", "tools", ".ci", "docs", "README.md", "Makefile", "hatch_build.py")
    places = [ROOT / name for name in names]
    found = [
        file for place in places for file in ([place] if place.is_file() else place.rglob("*"))
    ]
    kinds = {".py", ".sh", ".md", ".toml", ".service", ".yml", ".c", ".h", ""}
    return sorted(
        file
        for file in found
        if file.is_file() and file.suffix in kinds and "_build" not in file.parts
        and "__pycache__" not in file.parts
    )  # fmt: skip


def test_the_pattern_finds_what_it_is_for() -> None:
    for text in ('"/var/tmp/kmind-bench"', "'/tmp/x'", 'Path("/dev/shm")', "cd /tmp/$name"):
        assert SHARED.search(text), text
    for text in ("below /tmp, others", "tmpfs on /tmp", "src/tmp/x"):
        assert not SHARED.search(text), text


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_fixed_name_in_a_folder_that_all_may_write_to(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        return
    found = [
        f"{name}:{number}: {line.strip()}"
        for number, line in enumerate(lines, 1)
        if SHARED.search(line)
    ]
    if name in ALLOWED:
        assert found, f"{name} needs no exception any more"
    else:
        assert not found, "use kmind.util.scratch, tempfile or tmp_path"
