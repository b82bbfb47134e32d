# SPDX-License-Identifier: Apache-2.0
"""Tests mirror the sources: each long source has a test file by the same path.

``runtime/holds/grants.py`` is tested in ``tests/runtime/holds/test_grants.py``; a leading
underscore is left out. A source whose name begins with one serves its own folder alone, and may be
tested by way of that folder's other files.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "kmind"
LONG = 100

# Tested where they are used, and by which file.
ELSEWHERE = {
    "agent/kernel/generation.py": "agent/kernel/test_upgrade.py",
    "driver/nvme/controller.py": "vm/test_nvme.py",
    "driver/nvme/disk.py": "vm/test_nvme.py",
    "driver/pci/function.py": "vm/test_nvme.py",
    "driver/pci/vfio.py": "vm/test_nvme.py",
    "driver/server.py": "driver/fuse/test_later.py",
    "driver/ublk/control.py": "vm/test_ublk.py",
    "driver/ublk/disk.py": "vm/test_ublk.py",
    "driver/ublk/layout.py": "vm/test_ublk.py",
    "driver/ublk/server.py": "vm/test_ublk.py",
    "runtime/experiment/experiments.py": "runtime/experiment/confirm/test_confirm.py",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def mirror_of(path: Path) -> Path:
    """Return where a source's tests are by the same path."""
    return TESTS / path.relative_to(PACKAGE).parent / f"test_{path.stem.lstrip('_')}.py"


MOST_FILES = 14
RUNTIME = sorted({path.parent for path in (PACKAGE / "runtime").rglob("*.py")})


@pytest.mark.parametrize("folder", RUNTIME, ids=name_of)
def test_folder_of_runtime_is_not_crowded(folder: Path) -> None:
    """A folder can be seen at a glance; a larger one is divided by concept."""
    files = [path.name for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(files) <= MOST_FILES, files


LONG_SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if len(path.read_text().splitlines()) > LONG and path.stem != "__init__"
]
PUBLIC = [path for path in LONG_SOURCES if not path.stem.startswith("_")]


@pytest.mark.parametrize("path", PUBLIC, ids=name_of)
def test_long_source_has_its_tests_by_the_same_path(path: Path) -> None:
    if name_of(path) not in ELSEWHERE:
        assert mirror_of(path).exists(), f"no {mirror_of(path).relative_to(TESTS)}"


@pytest.mark.parametrize("source", ELSEWHERE)
def test_exception_is_one(source: str) -> None:
    """An exception that has tests of its own by now, or none anywhere, is none."""
    path = PACKAGE / source
    assert path in PUBLIC
    assert not mirror_of(path).exists()
    assert (TESTS / ELSEWHERE[source]).exists()
