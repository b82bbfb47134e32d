# SPDX-License-Identifier: Apache-2.0
"""Rows that are written are read again, within the bound, whatever happened to the writer."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learn.written import MODULE, values

from kmind.errors import RecordingError
from kmind.learn import recording
from kmind.learn._part import Part
from kmind.learn.recording import open_recordings
from kmind.learn.writer import Writer, open_output
from kmind.testing.recordings import made_records, made_windows, write_recording


def test_the_bound_is_kept_and_what_was_removed_is_counted(tmp_path: Path) -> None:
    bound = 1 << 20
    found = write_recording(
        tmp_path / "out", MODULE, made_windows(values(10)), made_records(2_000_000, 10),
        max_bytes=bound,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in found.paths)
    assert size <= bound + (bound >> 4)
    seen = sum(len(rows) for _, rows in found.records())
    metas = [meta for path in found.paths if (meta := recording._meta(path))]
    removed = [meta for meta in metas if meta.stream == "records"][-1].counts.removed
    assert 0 < seen < 2_000_000
    assert seen + removed == 2_000_000


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_output_that_exists(tmp_path: Path, name: str) -> None:
    write_recording(tmp_path / name, MODULE, made_windows(values(5)))
    with pytest.raises(RecordingError, match="exists already; name another place"):
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
        f"recording to {out} ended: the disk is full; the data written so far can be read: "
        f"kmind inspect {out}"
    )
    (found,) = open_recordings(out)
    seen = 0
    for at, rows in found.records():
        seen += len(rows)
        assert (rows["kind"] == 64).all()
        assert (np.diff(at.astype(int)) >= 0).all()
    assert 0 < seen < 2_000_000
