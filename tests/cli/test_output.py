# SPDX-License-Identifier: Apache-2.0
"""Nothing that others wrote reaches the terminal as a command to it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kmind.cli
from kmind.cli import main as main_module
from kmind.cli.output import plain, write
from kmind.cli.status import status_command
from kmind.errors import KmindError

HOSTILE = "a\x1b[2J\x9b31m\x07\rb\u202ec\x85"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@given(st.text())
def test_plain_text_commands_no_terminal(text: str) -> None:
    shown = plain(text)
    assert not COMMANDS.search(shown)
    assert shown.count("\n") == text.count("\n")
    assert len(shown) == len(text)


def test_errors_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: object) -> None:
        raise KmindError(f"the server says: {HOSTILE}", hint=HOSTILE)

    monkeypatch.setattr(main_module, "_run", fail)
    assert main_module.main(["status"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("kmind: the server says: a [2J")
    assert not COMMANDS.search(err)


def test_status_is_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def get(self: object, path: str) -> dict[str, object]:
        if path == "/v1/health":
            owner = {"p99_ms": 1.0, "max_ms": 2.0}
            return {
                "schema": "", "ok": True, "pid": 1, "version": HOSTILE, "owner": owner,
                "step_age_s": 0.0,
            }  # fmt: skip
        row = {
            "name": HOSTILE,
            "failed": HOSTILE,
            "status": {HOSTILE: HOSTILE},
            "yielded": [HOSTILE],
        }
        return {"schema": "", "instances": [row], "fill": {HOSTILE: {"used": 1, "size": 2}}}

    monkeypatch.setattr("kmind.cli.status.Client.get", get)
    status_command(None, json=False, socket=Path("/none"))
    out = capsys.readouterr().out
    assert out.count("a [2J") == 7
    assert not COMMANDS.search(out)


def test_commands_write_through_one_place() -> None:
    folder = Path(kmind.cli.__file__).parent
    direct = re.compile(r"sys\.stdout\.write\(|(?<!\.)print\(")
    found = {
        path.name
        for path in folder.rglob("*.py")
        if direct.search(path.read_text()) and path.name not in ("output.py", "bench.py")
    }
    assert found == {"main.py"}  # its one line of an error, which is plain


def test_write_keeps_lines(capsys: pytest.CaptureFixture[str]) -> None:
    write("one\ttwo\nthree\x1b\n")
    assert capsys.readouterr().out == "one\ttwo\nthree \n"
