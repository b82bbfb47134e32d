# SPDX-License-Identifier: Apache-2.0
"""The unit for systemd, as systemd itself sees it."""

import re
import subprocess
import sys
from pathlib import Path

from programs import program

import kmind.serve

UNIT = Path(kmind.serve.__file__).parent / "kmind.service"


def analyze(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    tool = program("systemd-analyze")
    return subprocess.run([tool, *words], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    unit = tmp_path / "kmind.service"
    # The one here stands in no folder where systemd looks for commands.
    unit.write_text(
        UNIT.read_text().replace("ExecStart=kmind", f"ExecStart={sys.executable} -m kmind")
    )
    done = analyze("verify", "--man=no", unit)
    ours = [line for line in done.stderr.splitlines() if "kmind" in line]
    assert not ours
    assert done.returncode == 0, done.stderr


def test_it_is_not_more_exposed_than_it_was() -> None:
    done = analyze("security", "--offline=yes", "--no-pager", UNIT)
    found = re.search(r"exposure level for kmind.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 5.0


def test_daemon_may_open_each_family_that_it_uses() -> None:
    """Those that the source names, and those that a Prometheus server is reached by."""
    source = UNIT.parent.parent
    used = {"AF_INET", "AF_INET6"}
    for path in source.rglob("*.py"):
        if path.parts[len(source.parts)] not in ("bench", "testing"):
            used |= set(re.findall(r"socket\.(AF_[A-Z0-9]+)", path.read_text()))
    lines = re.findall(r"^RestrictAddressFamilies=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert {word for line in lines for word in line.split()} == used
