# SPDX-License-Identifier: Apache-2.0
"""The table of docs/kernels.md is made of the reports beside it."""

import json
import sys
from pathlib import Path

import pytest

from kmind.cli.doctor import SCHEMA

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "kernels.md"
REPORTS = sorted((ROOT / "docs" / "kernels").glob("*.json"))

sys.path.insert(0, str(ROOT / "tools"))
try:
    import kernels_table
finally:
    sys.path.remove(str(ROOT / "tools"))


def test_table_is_what_the_reports_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "kernels.md"
    page.write_text(PAGE.read_text())
    monkeypatch.setattr(kernels_table, "PAGE", page)
    kernels_table.main([])
    assert page.read_text() == PAGE.read_text(), "run tools/kernels_table.py"


def test_reports_are_whole() -> None:
    assert [path.stem for path in REPORTS] == ["6.1", "6.12", "newest"]
    for path in REPORTS:
        report = json.loads(path.read_text())
        assert report["schema"] == SCHEMA
        assert report["ok"], f"{path.name}: a kernel that lacks what is required"
        assert report["core"]["state"] == "ok"


def _report(kernel: str, **states: str) -> dict[str, object]:
    lost = [{"hook": "on_read", "cause": "gone", "costs": "no reads"}]
    replaced = [
        {"hook": "on_sync", "program": "x", "function": "f", "tracepoint": "", "loses": "no end"}
    ]
    modules = [
        {
            "name": name,
            "state": state,
            "cause": "refused by the verifier" if state == "missing" else "",
            "lost": lost if state == "partly" else [],
            "replaced": replaced if state == "partly" else [],
        }
        for name, state in states.items()
        if name != "arena"
    ]
    probes = [
        {"name": "arena", "state": states["arena"], "costs": "an array instead", "required": False},
        {"name": "tp_btf", "state": "ok", "costs": "all", "required": True},
    ]
    return {
        "kernel": kernel,
        "core": {"state": "ok", "cause": ""},
        "shared_memory": "arena" if states["arena"] == "ok" else "array",
        "modules": modules,
        "probes": probes,
    }


def test_rows_say_what_runs_what_is_lost_and_what_is_lacking() -> None:
    old = _report("6.1.0-50-cloud-amd64", readahead="partly", iolat="missing", arena="missing")
    new = _report("6.12.95+deb12-cloud-amd64", readahead="ok", iolat="missing", arena="ok")
    lines = kernels_table.table([old, new]).splitlines()
    assert lines[:2] == [
        "| runs | 6.1.0-50-cloud-amd64 | 6.12.95+deb12-cloud-amd64 |", "|---|---|---|",
    ]  # fmt: skip
    assert "| agents share memory by | array | arena |" in lines
    assert "| `readahead` | partly | yes |" in lines
    assert "| `iolat` | no | no |" in lines
    assert "| `readahead` | 6.1.0 | without `on_read`: no reads |" in lines
    assert "| `readahead` | 6.1.0 | `on_sync` stands at `f` instead: no end |" in lines
    both = "| `iolat` | 6.1.0, 6.12.95+deb12 | does not run: refused by the verifier |"
    assert both in lines
    assert "| `arena` | no | yes | an array instead |" in lines
    assert not any("tp_btf" in line for line in lines), "all have it"


def test_kernels_stand_in_the_order_of_their_versions() -> None:
    names = [report["kernel"] for report in kernels_table.read_reports()]
    assert names == sorted(names, key=kernels_table._version)
    assert kernels_table._version("6.1.0-50-cloud-amd64") < kernels_table._version("6.12.95+deb12")
