# SPDX-License-Identifier: Apache-2.0
"""Experiments on record: told, found again, marked where they were cut short."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmind.errors import KmindError, UsageError
from kmind.knobs import Target, get_knob
from kmind.runtime.evidence_store import EvidenceStore
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return make_disk_files(tmp_path / "root")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EvidenceStore]:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        yield store


def begin(store: EvidenceStore, target: Target, old: int = 128, new: int = 16, **more: Any) -> int:
    words = {"kind": "trial", "instance": "m@d", "module": "m", "backend": "sim", "context": "c"}
    return store.begin(
        knob=KNOB,
        target=target,
        incumbent=old,
        candidate=new,
        metric="rate",
        unit="1/s",
        **(words | more),
    )


def record(outcome: str = "gain", ratio: float = 2.0) -> dict[str, Any]:
    interval = {"ratio": ratio, "low": ratio / 2, "high": None, "pairs": 5}
    return {"outcome": outcome, "reason": "so", "interval": interval, "detectable": 1.1}


def made(store: EvidenceStore, target: Target, old: int, new: int, **more: Any) -> int:
    number = begin(store, target, old, new, **more)
    store.end(number, record(), kept=True)
    return number


def ways(store: EvidenceStore, target: Target, old: int, new: int, **more: Any) -> list[int]:
    words: dict[str, Any] = {"module": "m", "context": "c", "younger_s": 100.0} | more
    rows = store.gains(knob=KNOB, target=target, incumbent=old, candidate=new, **words)
    return [row["id"] for row in rows]


def test_from_beginning_to_end(store: EvidenceStore, target: Target) -> None:
    number = begin(store, target, reason="Because.", evidence={"n": 1}, rec_id=7, change=9)
    assert store.latest()[0]["state"] == "running"
    store.end(number, record(), kept=True)
    row = store.get(str(number))
    assert (row["state"], row["outcome"], row["kept"], row["ratio"]) == ("ended", "gain", True, 2.0)
    assert (row["incumbent"], row["candidate"], row["evidence"]) == (128, 16, {"n": 1})
    assert row["record"]["interval"]["high"] is None
    assert (row["low"], row["high"], row["pairs"], row["detectable"]) == (1.0, None, 5, 1.1)
    assert "record" not in store.latest()[0]


@pytest.mark.parametrize("id", ["2", "0", "x", "-1", "1 OR 1", "9" * 30, ""])
def test_a_number_that_is_none(store: EvidenceStore, target: Target, id: str) -> None:
    begin(store, target)
    with pytest.raises(UsageError, match="there is no experiment"):
        store.get(id)


def test_gains_are_found_one_after_the_other(store: EvidenceStore, target: Target) -> None:
    first = made(store, target, 128, 16)
    second = made(store, target, 16, 4)
    assert ways(store, target, 128, 16) == [first]
    assert ways(store, target, 128, 4) == [first, second]
    assert ways(store, target, 4, 128) == []
    assert ways(store, target, 128, 8) == []
    for other in ({"context": "x"}, {"module": "x"}):
        assert ways(store, target, 128, 16, **other) == []


def test_the_latest_verdict_counts_and_none_is_none(store: EvidenceStore, target: Target) -> None:
    made(store, target, 128, 16)
    begin(store, target)  # still running
    store.end(begin(store, target), record("aborted"), kept=False)
    assert len(ways(store, target, 128, 16)) == 1
    store.end(begin(store, target), record("no change"), kept=False)
    assert ways(store, target, 128, 16) == []
    third = made(store, target, 128, 16)
    assert ways(store, target, 128, 16) == [third]


def test_another_disk_of_the_same_name(
    store: EvidenceStore, target: Target, tmp_path: Path
) -> None:
    made(store, target, 128, 16)
    other = make_disk_files(tmp_path / "other")
    (tmp_path / "other/sys/block/sim0/dev").write_text("7:1\n")
    assert ways(store, Target.block("sim0", root=tmp_path / "other"), 128, 16) == []
    assert other.name == target.name


def test_memory_fades(tmp_path: Path, target: Target) -> None:
    now = [1000.0]
    with EvidenceStore(tmp_path / "e.db", now=lambda: now[0]) as store:
        made(store, target, 128, 16)
        now[0] += 99
        assert ways(store, target, 128, 16)
        now[0] += 2
        assert not ways(store, target, 128, 16)


def test_a_circle_of_gains_ends(store: EvidenceStore, target: Target) -> None:
    for old, new in ((128, 16), (16, 4), (4, 128)):
        made(store, target, old, new)
    assert ways(store, target, 128, 512) == []


@pytest.mark.fault
def test_what_a_killed_process_left(tmp_path: Path, target: Target) -> None:
    path = tmp_path / "evidence.db"
    program = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from runtime.test_evidence_store import begin\n"
        "from kmind.knobs import Target\n"
        "from kmind.runtime.evidence_store import EvidenceStore\n"
        "store = EvidenceStore(Path(sys.argv[2]))\n"
        "begin(store, Target.block('sim0', root=Path(sys.argv[3])), change=3)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", program, tests, str(path), str(tmp_path / "root")]
    assert subprocess.run(command, check=False).returncode == -9
    with EvidenceStore(path) as store:
        mine = begin(store, target)
        assert store.mark_interrupted("another@one") == []
        (row,) = store.mark_interrupted()
        assert (row["change"], row["why"]) == (3, "its owner was killed")
        assert store.mark_interrupted() == []
        states = {each["id"]: (each["state"], each["outcome"]) for each in store.latest()}
        assert states == {row["id"]: ("interrupted", "aborted"), mine: ("running", "")}


def test_the_machine_went_down(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evidence.db"
    with EvidenceStore(path) as store:
        begin(store, target)
    monkeypatch.setattr("kmind.runtime.evidence_store.boot_id", lambda: "another boot")
    with EvidenceStore(path) as store:
        (row,) = store.mark_interrupted()
        assert row["why"] == "the machine went down"


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "evidence.db"
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(KmindError, match="cannot open the record of experiments"):
        EvidenceStore(path)


def test_a_file_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "evidence.db"
    with EvidenceStore(path) as store:
        store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(KmindError, match="version 99"):
        EvidenceStore(path)


def test_in_memory_nothing_is_left(target: Target, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    with EvidenceStore(None) as store:
        made(store, target, 128, 16)
        assert len(store.latest()) == 1
    assert {path.name for path in tmp_path.iterdir()} == before


def test_memory_is_asked_in_no_time_however_much_there_is(
    store: EvidenceStore, target: Target
) -> None:
    blocks = {**record(), "blocks": [[1.5] * 8] * 300}
    store._db.execute("BEGIN")
    for n in range(5000):
        store.end(begin(store, target, 128 + n, 129 + n), blocks, kept=n < 4)
    store._db.execute("COMMIT")
    spent = time.thread_time()
    assert len(ways(store, target, 128, 132)) == 4
    # Of its own thread, for others' work is none of it; it was 2.3 s.
    assert time.thread_time() - spent < 0.25
