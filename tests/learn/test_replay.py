# SPDX-License-Identifier: Apache-2.0
"""A recording in the place of a kernel: the same again, and again the same."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from kmind.cli.main import main
from kmind.errors import RecordingError
from kmind.extension import Extension, find_module, parse_parameters
from kmind.learn.meta import Host
from kmind.learn.recording import Recording, decode_records, open_recordings
from kmind.learn.replay import Replay
from kmind.learn.summary import summarise
from kmind.testing.recordings import made_records, made_windows, write_recording

if TYPE_CHECKING:
    from conftest import RecordDisk

MODULE = find_module("readahead")
FEATURES = len(MODULE.manifest.features)
PARAMS = parse_parameters(MODULE.manifest, [])


def made(path: Path, **changed: Any) -> Recording:
    values = np.random.default_rng(3).integers(0, 99, (20, FEATURES))
    return write_recording(path, MODULE, made_windows(values), made_records(500, 20), **changed)


class Notes(Extension):
    """Writes down what it is given."""

    seen: list[tuple[str, Any]]

    def start(self) -> None:
        Notes.seen = []

    def on_windows(self, windows: Any) -> None:
        self.seen.append(("windows", windows.copy()))
        assert self.context.now() == windows["end_ns"][-1] / 1e9

    def on_records(self, records: Any) -> None:
        assert len(set(records["cpu"].tolist())) == 1
        self.seen.append(("records", records.copy()))


def test_everything_comes_in_its_order(tmp_path: Path) -> None:
    recording = made(tmp_path / "out")
    replay = Replay(recording, MODULE, PARAMS, extension_class=Notes)
    replay.run()
    order = [kind for kind, _ in Notes.seen]
    assert order == ["records", "records", "windows"] * 20  # of two CPUs
    ((at, stored),) = recording.records()
    fed = np.concatenate([rows for kind, rows in Notes.seen if kind == "records"])
    assert len(fed) == replay.records == 500
    for n in range(20):
        turn = np.concatenate([Notes.seen[3 * n][1], Notes.seen[3 * n + 1][1]])
        assert sorted(turn["seq"].tolist()) == sorted(stored[at == n]["seq"].tolist())
    ((_, windows, _),) = recording.windows()
    fed = np.concatenate([rows for kind, rows in Notes.seen if kind == "windows"])
    assert fed.tobytes() == windows.tobytes()


def test_lost_windows_keep_their_records(tmp_path: Path) -> None:
    windows = made_windows(np.zeros((20, FEATURES)))
    keep = (windows["at"] % 3 > 0) & (windows["at"] < 15)
    recording = write_recording(tmp_path / "out", MODULE, windows[keep], made_records(500, 20))
    replay = Replay(recording, MODULE, PARAMS)
    replay.run()
    assert (replay.windows, replay.records) == (int(keep.sum()), 500)


def test_recommends_as_it_did(tmp_path: Path, record_disk: "RecordDisk", capfd: Any) -> None:
    record_disk(tmp_path / "out")
    reports = []
    for _ in range(2):
        assert main(["replay", str(tmp_path / "out"), "readahead", "patience=0", "--json"]) == 0
        reports.append(capfd.readouterr().out)
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    assert report["schema"] == "kmind.replay/1"
    first = report["recommendations"][0]
    assert (first["knob"], first["current"]) == ("block.read_ahead_kb", 8192)
    assert first["value"] < 8192
    assert first["verdict"] == "advised"
    assert first["reason"].endswith(".")
    assert 0 < first["time_s"] < report["span_s"]
    assert report["windows"] == 40
    assert main(["replay", str(tmp_path / "out"), "readahead", "patience=0"]) == 0
    assert "block.read_ahead_kb = " in capfd.readouterr().out


def test_a_module_may_draw_random_numbers(tmp_path: Path) -> None:
    class Draws(Extension):
        def status(self) -> Any:
            return {"drawn": self.context.rng.random()}

    def drawn(seed: int) -> Any:
        replay = Replay(made_once, MODULE, PARAMS, seed=seed, extension_class=Draws)
        replay.run()
        return replay.status

    made_once = made(tmp_path / "out")
    assert drawn(1) == drawn(1) != drawn(2)


def test_in_real_time(tmp_path: Path) -> None:
    values = np.zeros((4, FEATURES))
    recording = write_recording(tmp_path / "out", MODULE, made_windows(values))
    replay = Replay(recording, MODULE, PARAMS, real_time=True)
    started = time.monotonic()
    replay.run()
    assert time.monotonic() - started >= replay.span_s == 0.4


def test_inspect(tmp_path: Path, record_disk: "RecordDisk", capfd: Any) -> None:
    recording = record_disk(tmp_path / "out")
    found = summarise(recording)
    assert (found["windows"], found["span_s"], found["gaps"]) == (40, 4.0, [])
    assert found["records"] == found["kinds"][0]["records"] == 800
    assert found["kinds"][0]["name"] == "miss"
    assert found["kinds"][0]["fields"][0] == {
        "name": "inode", "unit": "1", "min": 7.0, "median": 7.5, "p99": 8.0, "max": 8.0,
    }  # fmt: skip
    faults = next(f for f in found["features"] if f["name"] == "fault_misses")
    assert faults["unit"] == "1/s"
    assert 0 < faults["median"] <= faults["p99"] <= faults["max"]
    assert list(found["knobs"]) == ["block.read_ahead_kb"]
    assert found["backend"] == "sim"
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["schema"] == "kmind.inspect/1"
    assert report["recordings"] == [found]
    assert main(["inspect", str(tmp_path / "out")]) == 0
    text = capfd.readouterr().out
    assert "readahead@" in text
    assert "simulated" in text
    assert "fault_misses" in text


def test_inspect_names_gaps(tmp_path: Path) -> None:
    windows = made_windows(np.zeros((20, FEATURES)))
    found = summarise(write_recording(tmp_path / "out", MODULE, np.delete(windows, [5, 6])))
    assert found["gaps"] == [{"at_s": 0.5, "seconds": 0.2, "windows": 2}]


def test_fields_of_records(tmp_path: Path) -> None:
    meta = made(tmp_path / "out").meta
    rows = made_records(10, 1)["record"]
    columns = decode_records(meta, rows)["miss"]
    assert (columns["page"] == rows["value"]).all()
    assert (columns["inode"] == rows["subject"]).all()


def foreign(path: Path) -> None:
    parquet.write_table(pa.table({"x": [1]}), path)


def cut(path: Path) -> None:
    made(path.with_suffix(".whole"))
    whole = path.with_suffix(".whole") / "readahead@vda.windows.000001.parquet"
    path.write_bytes(whole.read_bytes()[:-100])


def no_parquet(path: Path) -> None:
    path.write_text("feature,value\n")


def other_abi(path: Path) -> None:
    write_recording(path, MODULE, made_windows(np.zeros((2, FEATURES))), abi=1)


def other_schema(path: Path) -> None:
    write_recording(path, MODULE, made_windows(np.zeros((2, FEATURES))), schema="kmind.recording/9")


def other_module(path: Path) -> None:
    slowio = find_module("slowio")
    write_recording(path, slowio, made_windows(np.zeros((2, len(slowio.manifest.features)))))


def other_features(path: Path) -> None:
    features = MODULE.manifest.features[1:]
    write_recording(
        path, MODULE, made_windows(np.zeros((2, FEATURES - 1))), features=features, version="0.0.1"
    )


def lacking(path: Path) -> None:
    made(path.with_suffix(".whole"))
    whole = path.with_suffix(".whole") / "readahead@vda.windows.000001.parquet"
    table = parquet.read_table(whole)
    parquet.write_table(table.drop_columns(["faults"]), path)


def no_windows(path: Path) -> None:
    path.mkdir()


def absent(path: Path) -> None:
    pass


BAD: list[tuple[Callable[[Path], None], int, str]] = [
    (foreign, 1, "is no recording of kmind's: its metadata has no key 'kmind'"),
    (cut, 1, "cannot be read: "),
    (no_parquet, 1, "cannot be read: "),
    (other_abi, 1, "was recorded with ABI 1, and this kmind speaks"),
    (other_schema, 1, "has the schema 'kmind.recording/9', and this kmind reads"),
    (other_module, 1, "holds nothing of module readahead; it holds slowio@vda"),
    (other_features, 1, "its features are those of readahead 0.0.1, and version"),
    (lacking, 1, "lacks the column faults, or it is of another type"),
    (no_windows, 1, "nothing was recorded in"),
    (absent, 2, "there is no"),
]


@pytest.mark.parametrize(
    ("make", "code", "message"), BAD, ids=lambda value: getattr(value, "__name__", "")
)
def test_bad_input(
    tmp_path: Path, capfd: Any, make: Callable[[Path], None], code: int, message: str
) -> None:
    path = tmp_path / "bad.parquet"
    with contextlib.suppress(RecordingError):  # which reading it back raises
        make(path)
    capfd.readouterr()
    assert main(["replay", str(path), "readahead"]) == code
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert "Traceback" not in error


def test_another_kernel_is_said(tmp_path: Path, capfd: Any) -> None:
    host = Host(kernel="6.99.1", machine="x", cpus=1, memory_bytes=1)
    made(tmp_path / "out", host=host)
    assert main(["replay", str(tmp_path / "out"), "readahead", "--json"]) == 0
    shown = capfd.readouterr()
    assert "recorded on kernel 6.99.1; this is" in shown.err
    assert json.loads(shown.out)["recorded_kernel"] == "6.99.1"


def test_damaged_within(tmp_path: Path, capfd: Any) -> None:
    """A byte that was flipped is found wherever it stands, or changes nothing."""
    good = summarise(made(tmp_path / "good"))
    (recording,) = open_recordings(made(tmp_path / "out").paths[0].parent)
    path = recording.paths[-1]
    whole = path.read_bytes()
    for place in range(8, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        code = main(["inspect", str(path), "--json"])
        shown = capfd.readouterr()
        error = shown.err
        assert code in (0, 1)
        if code == 0:
            (found,) = json.loads(shown.out)["recordings"]
            assert found["features"] == good["features"], place
        assert error.count("\n") == code, error
        assert "unexpected" not in error
