# SPDX-License-Identifier: Apache-2.0
"""A folder with findings and a report, for the tests of both commands."""

import time
from pathlib import Path
from typing import Any

import pytest

from kmind.extension.handover import Cause, Filed, Found
from kmind.extension.manifest.manifest import FindingPart, ReportPart
from kmind.runtime.findings.keeper import Finder, Findings

KIND = FindingPart(
    name="slow", help="h", severity="warning", score="Times as slow.", critical_from=4.0
)
WHO = Finder("slowio@vda", "slowio", "vda", "serial x")
FOUND: dict[str, Any] = {
    "kind": "slow",
    "title": "Requests take long.",
    "evidence": {"requests": 9},
    "causes": (Cause(hint="It is hot.", evidence={"celsius": 90.5}),),
    "action": "Cool it.",
}


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """The command line's folder: an open, a closed and an expired finding, and a report."""
    folder = tmp_path / "state"
    path = folder / "findings.db"
    with Findings(path, lambda event: None, now=lambda: time.time() - 1000) as findings:
        findings.find(WHO, KIND, Found(part="old", score=2.0, **FOUND))
    with Findings(path, lambda event: None) as findings:
        findings.find(WHO, KIND, Found(score=5.0, **FOUND))
        findings.find(WHO, KIND, Found(part="queue 1", score=2.0, **FOUND))
        findings.close_finding(WHO.id("finding", "slow", "queue 1"))
        files = {"last.csv": b"time\n\x1b[2J\0"}
        filed = Filed(kind="failure", signature="s", title="It fails.", count=3, files=files)
        findings.file(WHO, ReportPart(name="failure", help="h"), filed)
    return folder
