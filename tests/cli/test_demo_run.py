# SPDX-License-Identifier: Apache-2.0
"""The run beside the demo's load."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmind.cli._demo_run import Runner, check_run
from kmind.errors import KmindError, NotSupportedError, PrivilegeError
from kmind.workloads.host import run_process

if TYPE_CHECKING:
    pass
from cli.demo_support import STOP, fake_run


@pytest.mark.needs("sleep")
@pytest.mark.parametrize("error", [NotSupportedError, PrivilegeError, KmindError])
def test_error_of_the_run_ends_what_runs_beside_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[KmindError]
) -> None:
    """It was told after 40 s in which nothing was measured."""
    fake_run(
        tmp_path,
        "import os, sys\n"
        "os.read(os.open('go', os.O_RDONLY), 1)\n"
        "sys.stderr.write('kmind: cannot map 180 pages of an arena: File exists\\n')\n"
        f"sys.exit({error.exit_code})\n",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    os.mkfifo("go")

    def load() -> None:
        Path("go").write_text("!")
        run_process(["sleep", "600"])

    with (
        pytest.raises(KmindError, match="cannot map 180 pages") as caught,
        Runner(["readahead", "vda"], print, tmp_path / "state") as runner,
    ):
        runner.beside(load)
    assert type(caught.value) is error


def test_run_that_cannot_start_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run(tmp_path, "import sys; sys.exit('kmind: no such thing; run: kmind doctor')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KmindError) as caught:
        check_run("vda", tmp_path / "state")
    assert str(caught.value) == "kmind run: no such thing; run: kmind doctor"


def test_run_that_ends_in_order_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run(tmp_path, f"print({STOP!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check_run("vda", tmp_path / "state")
