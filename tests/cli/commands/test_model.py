# SPDX-License-Identifier: Apache-2.0
"""The record of ``kmind model``: its members, and how its words reach what does the work."""

from pathlib import Path
from typing import Any

import pytest

from kmind.cli import model
from kmind.cli.commands.model import COMMAND
from kmind.cli.main import main


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments that ``import_command`` is called with; nothing is done."""
    words: dict[str, Any] = {}

    def record(source: Path, output: Path, **more: Any) -> int:
        words.update(more, source=source, output=output)
        return 0

    monkeypatch.setattr(model, "import_command", record)
    return words


def test_each_member_has_an_example_that_begins_with_its_name() -> None:
    for member in COMMAND.commands:
        assert member.examples, member.name
        assert all(each.startswith(f"kmind {member.name} ") for each in member.examples)


def test_words_of_import_are_read(called: dict[str, Any]) -> None:
    line = "net.onnx -o net.kmodel --calibration io.csv --classes no,yes --unit a=ns --unit b=us"
    assert main(["model", "import", *line.split(), "--limit", "0.1", "--rounded"]) == 0
    assert called["source"] == Path("net.onnx")
    assert called["classes"] == ["no", "yes"]
    assert list(called["units"]) == ["a=ns", "b=us"]
    assert (called["limit"], called["exact"], called["force"]) == (0.1, False, False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("net.onnx --calibration io.csv", "output"),
        ("net.onnx -o x --calibration y --limit much", "limit"),
        ("net.onnx -o x --calibration y --format pickle", "format"),
    ],
)
def test_wrong_words_are_one_line(
    called: dict[str, Any], capsys: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    assert main(["model", "import", *line.split()]) == 2
    error = capsys.readouterr().err
    assert (reason in error, error.count("\n")) == (True, 1)
    assert not called
