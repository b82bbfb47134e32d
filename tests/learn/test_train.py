# SPDX-License-Identifier: Apache-2.0
"""Splits keep time and loads apart, scores are what they say, and a model tells all of itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmind.cli.main import main
from kmind.extension import KnobInfo, find_module
from kmind.infer import ModelFile, evaluate
from kmind.learn.recording import Recording, open_recordings
from kmind.learn.scores import folds, split
from kmind.learn.train import _recorded, read_data
from kmind.modules.readahead.recipe import COLUMNS, ReadaheadRecipe
from kmind.testing.recordings import made_windows, write_recording

MODULE = find_module("readahead")
COLUMN = MODULE.manifest.columns
KNOB = KnobInfo("block.read_ahead_kb", 7, "int", "KiB", 4, 8192, 4, (), 3, 128)
LADDER = (16, 128, 8192)


def record_load(folder: Path, name: str, best: int, *, in_order: float, seed: int) -> None:
    """One load under a sweep: it gets on as its windows say, fastest under the value ``best``."""
    rng = np.random.default_rng(seed)
    count = 150
    stood = np.array(LADDER)[np.arange(count) // 10 % 3]
    speed = np.where(stood == best, 1000, 500) * rng.normal(1, 0.05, count)
    values = np.zeros((count, len(COLUMN)))
    values[:, COLUMN["reads"]] = speed
    values[:, COLUMN["read_pages"]] = speed
    values[:, COLUMN["read_sequential"]] = speed * np.clip(rng.normal(in_order, 0.03, count), 0, 1)
    values[:, COLUMN["added_pages"]] = speed * (1 + stood / 1000)
    values[:, COLUMN["device_reads"]] = speed / 2
    values[:, COLUMN["device_bytes"]] = speed * 4096
    values[:, COLUMN["device_ns"]] = speed * rng.normal(1e5, 1e4, count)
    write_recording(
        folder / name, MODULE, made_windows(values), tags={"workload": name},
        knobs={KNOB.name: KNOB}, stood=stood[:, None], sweep={KNOB.name: LADDER},
    )  # fmt: skip


def test_what_drifts_falls_on_all_values_alike(tmp_path: Path) -> None:
    """A machine that becomes ten times as fast does not make the value best that stood then."""
    rng = np.random.default_rng(2)
    count = 150
    stood = np.array(LADDER)[np.arange(count) // 10 % 3]
    speed = np.where(stood == 16, 1000, 800) * rng.normal(1, 0.05, count)
    speed *= np.where(np.arange(count) >= 140, 100, 1)  # under 8192
    values = np.zeros((count, len(COLUMN)))
    for name in ("reads", "read_pages", "added_pages", "device_reads"):
        values[:, COLUMN[name]] = speed
    recording = write_recording(
        tmp_path / "out", MODULE, made_windows(values), tags={"workload": "x"},
        knobs={KNOB.name: KNOB}, stood=stood[:, None], sweep={KNOB.name: LADDER},
    )  # fmt: skip
    assert best_of(recording) == 16


def test_what_the_load_counted_goes_before_what_the_agent_saw(tmp_path: Path, capfd: Any) -> None:
    record_load(tmp_path, "x", 8192, in_order=0.5, seed=0)
    (recording,) = open_recordings(tmp_path / "x")
    assert best_of(recording) == 8192
    ((_, windows, knobs),) = recording.windows()
    # Spans of 0.3 s: some lie across a change of the value, and count for nothing.
    starts, ends = windows["start_ns"][::3].astype(int), windows["end_ns"][2::3].astype(int)
    rates = np.where(knobs[2::3, 0] == 128, 50.0, 40.0)
    outcome = tmp_path / "x" / "outcome.csv"
    lines = [f"{a},{b},{rate}" for a, b, rate in zip(starts, ends, rates, strict=True)]
    outcome.write_text("\n".join(["start_ns,end_ns,per_s", *lines]))
    assert best_of(recording) == 128
    outcome.write_text("start_ns,end_ns,per_s\n1,2,many\n")
    assert main(["train", "readahead", str(tmp_path), "-o", str(tmp_path / "m")]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "outcome.csv cannot be read" in error


def test_where_loads_take_turns_each_window_is_asked_for_what_comes(
    loads: Path, tmp_path: Path, capfd: Any
) -> None:
    folder = tmp_path / "loads"
    shutil.copytree(loads, folder)
    count = 120
    # The first window after a change has seen half of either: what runs at its end counts.
    ran = np.arange(count) // 20 % 2 == 0
    values = np.zeros((count, len(COLUMN)))
    for name in ("reads", "read_pages", "added_pages", "device_reads"):
        values[:, COLUMN[name]] = 1000
    values[:, COLUMN["read_sequential"]] = np.where(ran, 980, 20)
    windows = made_windows(values)
    write_recording(
        folder / "phases", MODULE, windows, tags={"workload": "phases"}, knobs={KNOB.name: KNOB},
        stood=np.full((count, 1), 128), sweep={KNOB.name: LADDER},
    )  # fmt: skip
    starts, ends = (windows["window"][name].astype(int) for name in ("start_ns", "end_ns"))
    lines = ["start_ns,end_ns,name"]
    for first in range(0, 100, 20):
        middle = (starts[first] + ends[first]) // 2
        name = "readseq" if ran[first] else "readrandom"
        lines.append(f"{middle},{(starts[first + 20] + ends[first + 20]) // 2},{name}")
    phases = folder / "phases" / "phases.csv"
    phases.write_text("\n".join(lines))
    recordings = [_recorded(each) for each in read_data(folder, MODULE)]
    dataset = ReadaheadRecipe().dataset(recordings)
    number = next(n for n, each in enumerate(recordings) if each.phases)
    rows = dataset.group == number
    assert rows.sum() == 100  # what ended while nothing ran is left out
    said = [int(dataset.classes[label]) for label in dataset.y[rows]]
    assert said == [8192 if each else 16 for each in ran[:100]]
    out = tmp_path / "model"
    assert main(["train", "readahead", str(folder), "-o", str(out), "--json"]) == 0
    scores = json.loads(capfd.readouterr().out)["card"]["held_out_scores"]["phases"]
    assert scores["model"]["balanced_accuracy"]["value"] > 0.95
    assert scores["majority"]["balanced_accuracy"]["value"] == 0.5
    for text, message in [
        (lines[0] + "\n1,2", "phases.csv cannot be read"),
        (lines[0] + "\n1,2,other", "other ran in phases, and has no recording of its own"),
    ]:
        phases.write_text(text)
        assert main(["train", "readahead", str(folder), "-o", str(tmp_path / "m")]) in (1, 2)
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert message in error


def best_of(recording: Recording) -> int:
    dataset = ReadaheadRecipe().dataset([_recorded(recording)])
    found: int = dataset.notes["loads"]["x"]["best"]
    return found


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loads")
    for seed, (name, best, in_order) in enumerate(
        [
            ("readseq", 8192, 0.98),
            ("readreverse", 128, 0.5),
            ("readrandom", 16, 0.02),
            ("readrandomwriterandom", 16, 0.04),
            ("updaterandom", 16, 0.03),
            ("mixgraph", 16, 0.1),
        ]
    ):
        record_load(folder, name, best, in_order=in_order, seed=seed)
    return folder


def test_a_model_is_learnt_and_told(loads: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "readahead.kmm"
    assert main(["train", "readahead", str(loads), "-o", str(out), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["schema"] == "kmind.train/1"
    made = ModelFile.load(out)
    assert made.hash == report["hash"]
    card = dict(made.card)
    assert card == report["card"]
    assert [feature.name for feature in made.features] == [column.name for column in COLUMNS]
    assert card["notes"]["loads"]["readseq"]["best"] == 8192
    assert card["notes"]["loads"]["mixgraph"]["best"] == 16
    assert len({each["sha256"] for each in card["data"]}) == 6
    assert set(card["held_out_scores"]) == {"mixgraph", "updaterandom"}
    for scores in card["held_out_scores"].values():
        assert scores["model"]["balanced_accuracy"]["value"] > 0.95
    for scores in card["scores"].values():
        assert scores["model"]["balanced_accuracy"]["value"] > 0.95
        low, high = scores["model"]["payoff"]["interval"]
        assert low <= scores["model"]["payoff"]["value"] <= high
    assert card["scores"]["later"]["majority"]["balanced_accuracy"]["value"] < 0.5
    # What is in the file decides by itself.
    row = np.zeros((1, len(COLUMNS)), np.int64)
    row[0, 0] = 980
    assert made.classes[evaluate(made.model, row).label[0]] == "8192"
    again = tmp_path / "again.kmm"
    assert main(["train", "readahead", str(loads), "-o", str(again)]) == 0
    text = capfd.readouterr().out
    assert "loads not trained on: mixgraph, updaterandom (" in text
    assert "of these, mixgraph" in text
    assert made.hash in text
    assert again.read_bytes() == out.read_bytes()


def test_what_was_not_recorded_is_said(loads: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "model"
    one = loads / "readseq"
    plain, unswept = tmp_path / "plain", tmp_path / "unswept"
    empty = made_windows(np.zeros((9, len(COLUMN))))
    write_recording(unswept, MODULE, empty)
    write_recording(
        plain, MODULE, empty, knobs={KNOB.name: KNOB}, sweep={KNOB.name: LADDER},
        stood=np.full((9, 1), 16),
    )  # fmt: skip
    taken = tmp_path / "taken"
    taken.touch()
    for words, code, message in [
        (
            ["readahead", str(one), "-o", str(out)],
            2,
            "of one class, 8192: there is nothing to learn",
        ),
        (["readahead", str(loads / "mixgraph"), "-o", str(out)], 2, "nothing is left to train on"),
        (["readahead", str(plain), "-o", str(out)], 2, "has no tag workload"),
        (["readahead", str(unswept), "-o", str(out)], 2, "made under one sweep of block.read"),
        (["readahead", str(tmp_path / "no"), "-o", str(out)], 2, "there is no"),
        (["slowio", str(loads), "-o", str(out)], 2, "module slowio cannot be trained"),
        (["dirty", str(loads), "-o", str(out)], 2, "module dirty cannot be trained"),
        (["readahead", str(loads), "-o", str(taken)], 2, "exists already"),
    ]:
        capfd.readouterr()
        found = main(["train", *words])
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert message in error
        assert found == code
        assert not out.exists()


def test_split_keeps_time_and_groups_apart() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 200)
    time_s = np.concatenate([np.sort(rng.uniform(0, 60, 200)) + 100 * n for n in range(3)])
    held = group == 2
    parts = split(group, time_s, held, 0.3, 2.0)
    assert (parts.unseen == held).all()
    assert not (parts.train & parts.later).any()
    for n in (0, 1):
        last = time_s[parts.train & (group == n)].max()
        first = time_s[parts.later & (group == n)].min()
        assert first - last >= 2.0
    assert parts.train.sum() > parts.later.sum() > 60
    seen = np.zeros(len(group), bool)
    for fit, check in folds(group, time_s, 4, 1.0):
        for n in range(3):
            inside = np.sort(time_s[check & (group == n)])
            outside = time_s[fit & (group == n)]
            near = (outside > inside[0] - 1.0) & (outside < inside[-1] + 1.0)
            assert not near.any()
        assert not (seen & check).any()
        seen |= check
    assert seen.all()
