# SPDX-License-Identifier: Apache-2.0
"""The page on security names, for each threat, tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_threat_has_a_test_that_exists() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    tables = "\n".join(rows).split("| threat | protection | test |")[1:]
    assert len(tables) >= 5
    for row in "\n".join(tables).splitlines():
        if row:
            assert NAMED.search(row) or "](benchmarks.md#" in row, f"no test is named: {row}"


def test_named_tests_exist() -> None:
    gone = [
        f"{file}::{name}"
        for file, name in NAMED.findall(PAGE.read_text())
        if not (ROOT / "tests" / file).is_file()
        or not re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    ]
    assert not gone
