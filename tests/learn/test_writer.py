# SPDX-License-Identifier: Apache-2.0
"""What is written is read again, within its bound, and whatever became of the writer."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from kmind.errors import RecordingError
from kmind.extension import KnobInfo, find_module
from kmind.learn._part import Part
from kmind.learn.recording import open_recordings
from kmind.learn.schema import KNOB_UNKNOWN, columns_of
from kmind.learn.writer import Writer, open_output
from kmind.testing.recordings import made_records, made_windows, write_recording

MODULE = find_module("readahead")
FEATURES = len(MODULE.manifest.features)
KNOB = KnobInfo("block.read_ahead_kb", 7, "int", "KiB", 4, 8192, 4, (), 3, 128)


def values(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << 40, (count, FEATURES))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    windows, records = made_windows(values(50)), made_records(3000, 50)
    stood = np.full((50, 1), 128)
    stood[7] = KNOB_UNKNOWN
    found = write_recording(
        tmp_path / "out", MODULE, windows, records,
        knobs={KNOB.name: KNOB}, stood=stood, tags={"a": "b"},
    )  # fmt: skip
    ((at, rows, knobs),) = found.windows()
    assert (at == windows["at"]).all()
    assert rows.tobytes() == windows["window"].tobytes()
    assert (knobs == stood).all()
    ((at, rows),) = found.records()
    assert (at == records["at"]).all()
    assert rows.tobytes() == records["record"].tobytes()
    assert found.meta.tags == {"a": "b"}
    assert found.meta.knobs == {KNOB.name: KNOB}
    assert found.cut == []


def test_a_file_describes_itself(tmp_path: Path) -> None:
    found = write_recording(tmp_path / "one.parquet", MODULE, made_windows(values(5)))
    assert [path.name for path in tmp_path.iterdir()] == ["one.parquet"]
    schema = parquet.read_schema(found.paths[0])
    assert schema.field("device_ns").metadata[b"unit"] == b"ns"
    assert schema.field("window.start_ns").metadata[b"unit"] == b"ns"
    assert all(field.metadata[b"help"] for field in schema)
    assert found.meta.clock.base == "CLOCK_MONOTONIC"
    assert found.meta.host.kernel == os.uname().release


def test_the_bound_is_kept_and_what_was_removed_is_counted(tmp_path: Path) -> None:
    bound = 1 << 20
    found = write_recording(
        tmp_path / "out", MODULE, made_windows(values(10)), made_records(2_000_000, 10),
        max_bytes=bound,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in found.paths)
    assert size <= bound + (bound >> 4)
    seen = sum(len(rows) for _, rows in found.records())
    removed = found.metas("records")[-1].counts.removed
    assert 0 < seen < 2_000_000
    assert seen + removed == 2_000_000


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_output_that_exists(tmp_path: Path, name: str) -> None:
    write_recording(tmp_path / name, MODULE, made_windows(values(5)))
    with pytest.raises(RecordingError, match="is there already; name another place"):
        write_recording(tmp_path / name, MODULE, made_windows(values(5)))


def test_what_the_disk_is_too_slow_for_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    wrote = Part.write

    def write(self: Part, columns: list[Any]) -> None:
        assert go.wait(60)
        wrote(self, columns)

    meta = write_recording(tmp_path / "x", MODULE, made_windows(values(1))).meta
    monkeypatch.setattr(Part, "write", write)
    writer = Writer(open_output(tmp_path / "out"), 1 << 30, 1)
    stream = writer.add(meta)
    taken = sum(writer.put(stream, made_windows(values(10))) for _ in range(200))
    assert 64 <= taken < 200
    assert writer.dropped(stream) == 10 * (200 - taken)
    go.set()
    writer.close()
    (found,) = open_recordings(tmp_path / "out")
    assert found.meta.counts.queue_dropped == 10 * (200 - taken)
    assert sum(len(rows) for _, rows, _ in found.windows()) == 10 * taken


ENDLESS = """
import sys, time
import numpy as np
from pathlib import Path
from kmind.learn.writer import Writer
import kmind.learn.writer as w
from kmind.testing import recordings
rows = recordings.made_records(1000, 10)
put, wrote = Writer.put, Writer._write
def write(self, stream, *rest):
    wrote(self, stream, *rest)
    print(stream.number, flush=True)
Writer._write = write
from kmind.extension import find_module
module = find_module("readahead")
rows = np.concatenate([rows] * 3000)
recordings._AT_ONCE = 1000
values = np.zeros((10, len(module.manifest.features)))
recordings.write_recording(Path(sys.argv[1]), module, recordings.made_windows(values), rows,
                           max_bytes=64 << 20)
"""


@pytest.mark.fault
@pytest.mark.parametrize("after", [3, 40])
def test_killed(tmp_path: Path, after: int) -> None:
    """All that was said to be written is there, though the writer never came to close it."""
    path = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL
    (found,) = open_recordings(path)
    assert found.cut
    # One line is the windows' batch.
    assert sum(len(rows) for _, rows in found.records()) >= 1000 * (len(lines) - 1)
    assert sum(len(rows) for _, rows, _ in found.windows()) == 10


def test_cut_anywhere(tmp_path: Path) -> None:
    """A stream that ends in the middle of a batch gives the batches before it."""
    path = tmp_path / "out"
    path.mkdir()
    meta = write_recording(tmp_path / "x", MODULE, made_windows(values(1))).meta
    part = Part(path / "p.000001", meta)
    ends = [part.size]
    for _ in range(3):
        part.write(columns_of(meta, made_windows(values(20))))
        ends.append(part.size)
    part.abandon()
    stream = path / "p.000001.arrows"
    whole = stream.read_bytes()
    for size in (*ends[1:], *(end - 1 for end in ends[1:]), *range(ends[1] + 1, ends[2], 97)):
        stream.write_bytes(whole[:size])
        (found,) = open_recordings(path)
        batches = sum(end <= size for end in ends[1:])
        assert sum(len(rows) for _, rows, _ in found.windows()) == 20 * batches
    for size in (0, 10, 300):
        stream.write_bytes(whole[:size])
        with pytest.raises(RecordingError, match="nothing was recorded"):
            open_recordings(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.kernel("root")
@pytest.mark.fault
def test_full_disk(small_disk: Path) -> None:
    out = small_disk / "out"
    with pytest.raises(RecordingError) as caught:
        write_recording(out, MODULE, made_windows(values(10)), made_records(2_000_000, 10))
    assert str(caught.value) == (
        f"recording to {out} ended: the disk is full; what was written until then can be read: "
        f"kmind inspect {out}"
    )
    (found,) = open_recordings(out)
    seen = 0
    for at, rows in found.records():
        seen += len(rows)
        assert (rows["kind"] == 64).all()
        assert (np.diff(at.astype(int)) >= 0).all()
    assert 0 < seen < 2_000_000
