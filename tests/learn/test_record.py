# SPDX-License-Identifier: Apache-2.0
"""Recording on the real kernel: what is counted is on record, and what was swept is put back."""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.disks import UNSEEN
from sample_module import knob_file, loop_disk

from kmind.cli.main import main
from kmind.errors import RecordingError, UsageError
from kmind.learn.recording import decode_records, open_recordings
from kmind.learn.summary import summarise

NEEDS = ("libbpf", "btf", "bpf_timer", "tp_btf")
SIZE = 16384
ROUND = 350


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMIND_STATE_DIR", str(tmp_path / "state"))


def start(*words: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kmind", "record", *words], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def read_direct(disk: str, count: int) -> None:
    """Reads past the page cache, one after the other, each where the last one ended."""
    fd = os.open(f"/dev/{disk}", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, SIZE) as buffer:
            for n in range(count):
                assert os.preadv(fd, [buffer], n * SIZE % (8 << 20)) == SIZE
    finally:
        os.close(fd)


def read_until(path: Path) -> int:
    """Count the reads in the windows that are on record until now; -1 without a window."""
    with contextlib.suppress(RecordingError, UsageError):
        for each in open_recordings(path):
            windows = [rows for _, rows, _ in each.windows() if len(rows)]
            column = each.meta.columns.get("reads", 0)
            if windows:
                return sum(int(rows["value"][:, column].sum()) for rows in windows)
    return -1


def wait_for(path: Path, process: "subprocess.Popen[str]", *, reads: int = 0) -> None:
    """Wait until something was recorded: windows, and in them so many reads."""
    limit = time.monotonic() + 60
    while read_until(path) < reads:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.kernel(*NEEDS)
@pytest.mark.usefixtures("each_shape")
def test_each_request_is_on_record(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        loop_disk(tmp_path) as disk,
        start(f"hooks@{disk}", "-o", str(out), "--json") as process,
    ):
        wait_for(out, process)
        asked = 0
        while read_until(out) < 700 and asked < 7000:  # some may be in no count: see UNSEEN
            read_direct(disk, ROUND)
            asked += ROUND
            wait_for(out, process, reads=min(700, int(asked * (1 - UNSEEN))))
        process.send_signal(signal.SIGINT)
        report, error = process.communicate()
    assert process.returncode == 0, error
    done = json.loads(report)
    assert done["schema"] == "kmind.record/1"
    assert done["ended"] == "interrupted"
    (recording,) = open_recordings(out)
    assert recording.cut == []
    rows = np.concatenate([batch for _, batch in recording.records()])
    windows = np.concatenate([batch for _, batch, _ in recording.windows()])
    assert len(rows) == done["instances"][0]["records"]
    columns = decode_records(recording.meta, rows)["read"]
    mine = columns["sectors"] == SIZE >> 9
    assert 700 <= mine.sum() <= asked
    # All but the first of a round, and those that begin anew, go on where the last one ended.
    assert (columns["distance"][mine] == 0).sum() >= mine.sum() - 2 * (asked // ROUND) - 5
    assert (columns["latency"][mine] > 0).all()
    assert (columns["in_flight"][mine] >= 1).all()
    assert (columns["failed"] == 0).all()
    assert (columns["time_ns"] > windows["start_ns"][0] - 10**9).all()
    # Records and counters tell the same, but for a window that was still open.
    summary = summarise(recording)
    assert summary["counts"]["ring_dropped"] == summary["counts"]["ring_lost"] == 0
    reads = windows["value"][:, recording.meta.columns["reads"]].sum()
    assert 700 <= reads <= len(columns["latency"])
    assert main(["replay", str(out), "blockio", "--json"]) == 0


@pytest.mark.kernel(*NEEDS)
@pytest.mark.usefixtures("each_shape")
def test_a_sweep_labels_windows_and_is_put_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with loop_disk(tmp_path) as disk:
        baseline = knob_file(disk).read_text()
        words = ("--sweep", "block.read_ahead_kb=16,512", "--sweep-s", "0.4", "--duration", "2")
        with start(f"readahead@{disk}", "-o", str(out), *words) as process:
            while process.poll() is None:
                read_direct(disk, 10)  # a window in which nothing happens is a long one
                time.sleep(0.02)
            text, error = process.communicate()
        assert process.returncode == 0, error
        assert "kmind inspect" in text
        assert knob_file(disk).read_text() == baseline
    (recording,) = open_recordings(out)
    assert recording.meta.sweep == {"block.read_ahead_kb": (16, 512)}
    stood = summarise(recording)["knobs"]["block.read_ahead_kb"]
    assert {"16", "512"} <= set(stood)
    assert set(stood) <= {"16", "512", "", baseline.strip()}


@pytest.mark.kernel(*NEEDS)
@pytest.mark.fault
def test_killed_in_a_sweep(tmp_path: Path) -> None:
    """Flushed rows survive, and `kmind restore` puts the knob back."""
    out = tmp_path / "out"
    with loop_disk(tmp_path) as disk:
        baseline = knob_file(disk).read_text()
        words = ("--sweep", "block.read_ahead_kb=16,512", "--sweep-s", "0.3")
        with start(f"readahead@{disk}", "-o", str(out), *words) as process:
            wait_for(out, process)
            limit = time.monotonic() + 30
            while knob_file(disk).read_text() == baseline and time.monotonic() < limit:
                time.sleep(0.01)
            process.kill()
            process.communicate()
        assert knob_file(disk).read_text() != baseline
        assert main(["restore"]) == 0
        assert knob_file(disk).read_text() == baseline
    (recording,) = open_recordings(out)
    assert recording.cut
    assert sum(len(rows) for _, rows, _ in recording.windows()) > 0


@pytest.mark.kernel(*NEEDS)
def test_a_sweep_yields(tmp_path: Path) -> None:
    """Another's write stays, and so do the rows recorded until then."""
    out = tmp_path / "out"
    with loop_disk(tmp_path) as disk:
        words = ("--sweep", "block.read_ahead_kb=16,512", "--sweep-s", "0.3")
        with start(f"readahead@{disk}", "-o", str(out), *words) as process:
            wait_for(out, process)
            knob_file(disk).write_text("64")
            _, error = process.communicate()
        assert process.returncode == 1
        assert error.count("\n") == 1
        assert "was set to 64 by somebody else" in error
        assert knob_file(disk).read_text() == "64\n"
    (recording,) = open_recordings(out)
    assert recording.cut == []
    assert sum(len(rows) for _, rows, _ in recording.windows()) > 0


BAD = [
    (["hooks@DISK", "readahead@DISK", "-o", "OUT.parquet"], 2, "a single file holds one stream"),
    (["hooks@DISK", "hooks@DISK", "-o", "OUT"], 2, "an instance is named twice"),
    (["readahead@nodisk", "-o", "OUT"], 2, "unknown block device"),
    (["x=1", "-o", "OUT"], 2, "comes before any module"),
    (["readahead", "-o", "OUT"], 2, "readahead needs a block target to record; name it after an @"),
    (["hooks", "-o", "OUT"], 2, "kmind record hooks@vda -o DIR"),
    (["slowio@", "-o", "OUT"], 2, "kmind record slowio@vda -o DIR"),
    (["readahead@DISK", "-o", "OUT", "--tag", "x"], 2, "'x' is not a tag"),
    (["readahead@DISK", "-o", "OUT", "--sweep", "x"], 2, "'x' is not a sweep"),
    (["hooks@DISK", "-o", "OUT", "--sweep", "block.read_ahead_kb=1,2"], 2, "no module that is rec"),
    (["readahead@DISK", "-o", "OUT", "--sweep", "block.read_ahead_kb=16"], 2, "two values or more"),
    (["readahead@DISK", "-o", "/proc/no/OUT"], 1, "cannot be made"),
    (["readahead@DISK", "-o", "TAKEN"], 1, "exists already"),
]


@pytest.mark.kernel("root")
@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_bad_words(tmp_path: Path, capfd: Any, words: list[str], code: int, message: str) -> None:
    disk = sorted(path.name for path in Path("/sys/block").iterdir())[0]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    for name, value in (("DISK", disk), ("OUT", f"{tmp_path}/out"), ("TAKEN", f"{tmp_path}/taken")):
        words = [word.replace(name, value) for word in words]
    words = [word.replace(f"/proc/no/{tmp_path}", "/proc/no") for word in words]
    assert main(["record", *words]) == code
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not (tmp_path / "out").exists()
