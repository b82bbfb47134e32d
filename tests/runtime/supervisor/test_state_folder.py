# SPDX-License-Identifier: Apache-2.0
"""State that a daemon writes down for the next one."""

import json
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from kmind.errors import KmindError
from kmind.runtime.holds.state import HoldState
from kmind.runtime.instance.state import InstanceState
from kmind.runtime.sandbox.state import ProcessState
from kmind.runtime.supervisor.state_folder import StateFolder

STATE = InstanceState(
    name="sample@vda",
    module="/tmp/sample",
    target="vda",
    params={"value": 512, "hold_s": 0.5, "fast": True, "word": "x"},
    mode="auto",
    slot=3,
    generation=2,
    started=1.5,
    process=ProcessState(pid=7, start=99, uid=61200, log="/run/kmind/log/x", cgroup="x"),
    holds=(HoldState(knob="block.read_ahead_kb", until_ns=5, change=8, rec_id=9, value=512),),
    yielded=("block.nomerges",),
    windows=17,
    last_id=21,
    running=True,
)


def same(state: InstanceState) -> InstanceState:
    return msgspec.structs.replace(state, boot="")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "deep" / "state")
    assert folder.load() == ([], {})
    folder.save(STATE)
    other = msgspec.structs.replace(STATE, name="sample@vdb", process=None, holds=())
    folder.save(other)
    good, bad = StateFolder(tmp_path / "deep" / "state").load()
    assert ([same(state) for state in good], bad) == ([STATE, other], {})
    assert (tmp_path / "deep/state/sample@vda.json").stat().st_mode & 0o077 == 0
    folder.remove("sample@vda")
    folder.remove("sample@vda")
    assert [state.name for state in folder.load()[0]] == ["sample@vdb"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": "kmind.state/99"}, "is of a later kmind: it is kmind.state/99, and this"),
        ({"schema": "kmind.state/99", "slot": {"number": 1}}, "is of a later kmind"),
        ({"schema": "kmind.state/0"}, "does not say which version of kmind.state"),
        ({"schema": "kmind.memory/1"}, "does not say which version of kmind.state"),
        ({"schema": 1}, "does not say which version of kmind.state"),
        ({"schema": "kmind.state/" + "9" * 5000}, "does not say which version of kmind.state"),
        ({"boot": "another"}, "of an earlier boot"),
        ({"name": "other@vda"}, "says that it is of other@vda"),
        ({"name": "../../etc@x/y"}, "cannot be read"),
        ({"mode": "emergency"}, "cannot be read"),
        ({"slot": "three"}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_state_of_no_use_says_why(
    tmp_path: Path, change: dict[str, object] | None, why: str
) -> None:
    folder = StateFolder(tmp_path)
    folder.save(STATE)
    file = tmp_path / "sample@vda.json"
    text = json.dumps(json.loads(file.read_text()) | change) if change else file.read_text()[:50]
    file.write_text(text)
    good, bad = folder.load()
    assert good == []
    assert list(bad) == ["sample@vda"]
    assert why in bad["sample@vda"]


def test_the_process_of_a_state_of_no_use_can_be_ended(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.save(STATE)
    file = tmp_path / "sample@vda.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"schema": "kmind.state/99", "holds": {"a": 1}}))
    assert list(folder.load()[1]) == ["sample@vda"]
    assert folder.process("sample@vda") == STATE.process
    for change in ({"boot": "another"}, {"process": None}, {"process": {"pid": "x"}}):
        file.write_text(json.dumps(record | change))
        assert folder.process("sample@vda") is None
    file.write_text("[" * 100_000)
    assert folder.process("sample@vda") is None
    assert folder.process("nobody@vda") is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KmindError, match=r"cannot write the state of sample@vda.*put back"):
        StateFolder(tmp_path / "file").save(STATE)


@pytest.mark.fault
def test_killed_while_saving_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.save(STATE)
    seen = set()
    for turn in range(30):
        pid = os.fork()
        if pid == 0:
            number = 0
            while True:
                number += 1
                holds = STATE.holds * (number % 200)
                folder.save(msgspec.structs.replace(STATE, windows=len(holds), holds=holds))
        time.sleep(0.002 + turn % 7 * 0.003)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        good, bad = folder.load()
        assert bad == {}
        assert len(good[0].holds) == good[0].windows or good[0].windows == 17
        seen.add(good[0].windows)
        assert list(tmp_path.iterdir()) == [tmp_path / "sample@vda.json"]
    assert len(seen) > 3
