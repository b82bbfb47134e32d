# SPDX-License-Identifier: Apache-2.0
"""The extension's process, from its sources to the module's code."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from extension_process import QUIET, running

from kmind.runtime.sandbox.exit_codes import EXIT_SETUP

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.kernel()


def test_a_package_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others/package_that_exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path / "others"))
    with running(tmp_path, imports=("package_that_exits",)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("package_that_exits cannot be imported: SystemExit: 0"))


def test_a_source_that_is_a_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET = 1")
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "more.py").symlink_to(secret)
    with running(tmp_path) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("more.py is a link"))


def test_all_of_numpy_that_it_uses_is_there(tmp_path: Path) -> None:
    source = QUIET.replace("from kmind", "import numpy as np\nfrom kmind", 1).replace(
        "    def status",
        "    def start(self):\n"
        "        parts = np.fft.fft(np.ones(4)), np.ma.array([1]), np.polynomial.Polynomial([1])\n"
        "        self.context.log(f'{len(parts)} parts {self.context.rng.random():.1f}')\n\n"
        "    def status",
    )
    with running(tmp_path, source) as run:
        run.until(lambda: run.said("3 parts 0.6"))
