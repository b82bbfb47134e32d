# SPDX-License-Identifier: Apache-2.0
"""A recording in the place of a kernel: the same again, and again the same."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from learn.replayed import FEATURES, MODULE, made

from kmind.cli.main import main
from kmind.extension import Extension, parse_parameters
from kmind.learn.recording import open_recordings
from kmind.learn.replay import Replay
from kmind.learn.summary import summarise
from kmind.testing.recordings import made_records, made_windows, write_recording

if TYPE_CHECKING:
    from conftest import RecordDisk

PARAMS = parse_parameters(MODULE.manifest, [])


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
