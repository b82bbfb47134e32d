# SPDX-License-Identifier: Apache-2.0
"""The reason is told where no guest can be made, and CI fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from vm import image

SCRIPT = Path(__file__).resolve().parents[2] / "tools/guests.sh"
OLD, NEW = image.KERNELS[:2]


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_machine_that_cannot_make_them_says_why_and_fails_under_ci(
    tmp_path: Path, ci: str, code: int
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dirname", "find", "flock", "mkdir", "mktemp", "rm"):
        programs.joinpath(name).symlink_to(shutil.which(name) or "")
    programs.joinpath("uname").write_text("#!/bin/sh\necho m68k\n")
    programs.joinpath("uname").chmod(0o755)
    environment = {"PATH": str(programs), "CI": ci, "KMIND_GUESTS": str(tmp_path / "guests")}
    bash = shutil.which("bash") or "bash"
    done = subprocess.run([bash, SCRIPT], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "guests: skipped, the guests are x86-64\n")
    assert (tmp_path / "guests/reason").read_text() == "the guests are x86-64\n"


def test_the_reason_is_told_to_who_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMIND_GUESTS", str(tmp_path))
    monkeypatch.setattr(image, "_NEEDED", ())
    (tmp_path / "reason").write_text("apt knows no Debian mirror here\n")
    assert image.missing(OLD) == (
        "tools/guests.sh has made no root file system: apt knows no Debian mirror here"
    )
    (tmp_path / "root-1.img").touch()
    assert "has fetched no kernel 6.1: apt knows" in image.missing(OLD)
    (tmp_path / "kernels/6.1").mkdir(parents=True)
    (tmp_path / "kernels/6.1/version").touch()
    (tmp_path / "kernels/6.12.absent").write_text("bookworm-backports has none\n")
    assert image.missing(OLD) == ""
    assert image.missing(NEW) == "bookworm-backports has none"
    with pytest.raises(LookupError, match="bookworm-backports has none"):
        image.find_kernel("6.12")
