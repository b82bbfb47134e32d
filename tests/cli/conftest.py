# SPDX-License-Identifier: Apache-2.0
"""Running the command line as a user would, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.found import found
from cli.placed import admin, ask

import kmind

__all__ = ["Cli", "admin", "ask", "cli", "found"]

SOURCES = str(Path(kmind.__file__).parent.parent)


class Cli:
    """Runs ``kmind``, with its state in a folder of the test's own."""

    def __init__(self, state: Path) -> None:
        self.environment = {
            **os.environ,
            "KMIND_STATE_DIR": str(state),
            "PYTHONPATH": SOURCES,
            "NO_COLOR": "1",
        }

    def __call__(self, *words: str, root: bool = True) -> "subprocess.CompletedProcess[str]":
        """The finished process. Without ``root``, as nobody, who may only read files."""
        # The interpreter may stand where nobody may look: reading is left to them.
        nobody = [
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search",
            "--ambient-caps=-all,+dac_read_search",
        ]  # fmt: skip
        prefix = [] if root or os.geteuid() else nobody
        return subprocess.run(
            [*prefix, sys.executable, "-m", "kmind", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line."""
    return Cli(tmp_path / "state")
