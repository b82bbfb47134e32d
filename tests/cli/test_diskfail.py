# SPDX-License-Identifier: Apache-2.0
"""``kmind diskfail check``: lines of disks, alerts and errors, and files that are none."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from health.smart.samples import asleep, ata, encoded, nvme, row

from kmind.cli.diskfail import SCHEMA, check_command

if TYPE_CHECKING:
    from conftest import Cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three days of one disk, another disk, and three files that are none."""
    sick = ata(row(197, "Current_Pending_Sector", 2), row(22, "Unknown_Attribute", 64))
    files = {
        "01.json": encoded(ata()),
        "02.json": encoded(sick),
        "03.json": encoded(asleep()),
        "04.json": encoded(sick),
        "05.json": encoded(ata())[:200],
        "06.json": b"[]",
        "07.json": encoded(nvme({"media_errors": 2**128 - 1})),
        "notes.txt": b"not read",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "08.json").mkdir()
    return tmp_path


def rows(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line["schema"] == SCHEMA for line in lines)
    return lines


def test_as_a_user_runs_it(cli: "Cli", folder: Path) -> None:
    done = cli("diskfail", "check", str(folder), "--json")
    assert (done.returncode, done.stderr) == (1, "")
    lines = rows(done.stdout)
    disks = [line for line in lines if line["kind"] == "disk"]
    assert [line["state"] for line in disks] == ["ok", "watch", "asleep", "watch", "ok"]
    assert len({line["disk"] for line in disks}) == 2
    alerts = [
        (Path(line["file"]).name, line["reason"]) for line in lines if line["kind"] == "alert"
    ]
    assert alerts == [("02.json", "sectors cannot be read: 2")]
    errors = [Path(line["file"]).name for line in lines if line["kind"] == "error"]
    assert errors == ["05.json", "06.json", "08.json"]
    assert disks[4]["doubtful"] == ["media_errors"]


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_command([folder / "02.json", folder / "06.json"], json=False) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].endswith("02.json: WDC_WD40EFRX_WD-1 is watch")
    assert "  watch: sectors cannot be read: 2" in lines
    assert "  not judged: 22 Unknown_Attribute 64" in lines
    assert "  alert: sectors cannot be read: 2" in lines
    assert "hours 1000 h, temperature 30 °C" in out
    assert err.endswith("06.json is a JSON list, not the object that smartctl writes\n")


def test_all_well_is_exit_code_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_command([folder / "01.json", folder / "03.json"], json=True) == 0
    assert [line["state"] for line in rows(capsys.readouterr().out)] == ["ok", "asleep"]


def test_attributes_that_nobody_knows_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_command([folder / "02.json"], json=True)
    disk = rows(capsys.readouterr().out)[0]
    shown = next(each for each in disk["attributes"] if each["id"] == 22)
    assert (shown["name"], shown["raw"], shown["used"]) == ("Unknown_Attribute", 64, False)
    assert disk["risk"] is None


def test_names_with_control_characters_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a\x1b[2J\n.json"
    path.write_bytes(encoded(ata(model_name="\x1b]0;title\x07")))
    assert check_command([path, tmp_path / "none\x1b"], json=False) == 1
    assert "\x1b" not in "".join(capsys.readouterr())


def test_folder_without_saved_output_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_command([tmp_path], json=True) == 1
    assert rows(capsys.readouterr().out)[0]["reason"] == "holds no *.json"
