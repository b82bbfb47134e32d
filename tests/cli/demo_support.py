# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of demo and its neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING

from sample_events import line

if TYPE_CHECKING:
    pass

STOP, KEPT = line("stop"), line("kept")


def fake_run(folder: Path, text: str) -> None:
    """Another `kmind run`: a package that stands first in the path."""
    (folder / "kmind").mkdir()
    (folder / "kmind/__init__.py").touch()
    (folder / "kmind/__main__.py").write_text(text)
