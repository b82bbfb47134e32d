# SPDX-License-Identifier: Apache-2.0
"""``kmind restore`` where something else is wrong."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from guard.support import in_child

from kmind.cli import restore as command
from kmind.errors import PolicyError
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import get_knob
from kmind.testing.simulate import make_disk_files

KNOB = get_knob("block.read_ahead_kb")


@pytest.mark.parametrize(
    "mistake",
    ['[knob."block.nomerges"\n', "x = " + "9" * 5000, "x = " + "[" * 3000, "\0", "forbidden = 1\n"],
    ids=["bracket", "digits", "nesting", "zero", "type"],
)
def test_a_policy_that_cannot_be_read_stops_no_undo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: str,
) -> None:
    disk = make_disk_files(tmp_path / "root")
    state = tmp_path / "state"
    monkeypatch.setenv("KMIND_STATE_DIR", str(state))
    monkeypatch.setattr("kmind.guard.policy._ADMIN", tmp_path / "policy.toml")
    monkeypatch.setattr(command, "restore", partial(restore, root=disk.root))
    monkeypatch.setattr(command, "os", SimpleNamespace(geteuid=lambda: 0))
    (tmp_path / "policy.toml").write_text(mistake)

    def die() -> None:
        actuator = Actuator(Journal(state / "journal.db"), Policy(), root=disk.root)
        actuator.apply(KNOB, disk, 16, who="t@d", why="")

    assert in_child(die) == 0
    assert KNOB.read(disk) == 16
    with pytest.raises(PolicyError):
        command.restore_command(json=False, force=False, dry_run=False)
    assert KNOB.read(disk) == 8192
    assert capsys.readouterr().out == "block.read_ahead_kb of sim0: 16 -> 8192\n"
