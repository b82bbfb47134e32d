# SPDX-License-Identifier: Apache-2.0
"""The I/O latency module: what it learns on made-up streams, and when it abstains."""

import ctypes
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.iolat_streams import bursts, events_of, homogeneous, stored, windows_for
from modules.native import compile_c

from kmind.cli.main import main
from kmind.extension import ChangeEvent, find_module
from kmind.infer import ModelFile, evaluate
from kmind.modules.iolat.extension import balanced_accuracy
from kmind.modules.iolat.recipe import COLUMNS, IoLatRecipe, columns_of, knee_us, log_of
from kmind.testing._rig import Rig, loaded
from kmind.testing.contract import CHECKS, Check
from kmind.testing.recordings import made_windows, write_recording

MODULE = find_module("iolat")
BLOCKIO = find_module("blockio")
HERE = Path(__file__).parents[1]
FEATURES = MODULE.manifest.columns
RECENT = ("decided", "slow", "slow_right", "fast_right", "last_slow_right", "last_fast_right")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: Check) -> None:
    check("iolat")


def test_the_recipe_and_the_manifest_name_the_same_features() -> None:
    assert MODULE.manifest.model is not None
    there = [(feature.name, feature.unit) for feature in MODULE.manifest.model.features]
    assert there == [(column.name, column.unit) for column in COLUMNS]


# The agent's C, compiled for user space.


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = compile_c(
        f"""
        #include <stdbool.h>
        #include "{HERE}/iolat_feed.h"
        void feed(struct iol_event *events, int count)
        {{
            struct iol_history history = {{}};
            for (int i = 0; i < count; i++) iol_feed(&history, events + i);
        }}
        unsigned logarithm(unsigned long long value) {{ return km_log2(value); }}
        bool believed(struct iol_recent *recent, bool publishing, int slow, int accuracy)
        {{ return iol_believed(recent, publishing, slow, accuracy); }}
        """,
        tmp_path_factory.mktemp("iolat"),
    )
    made.logarithm.argtypes = [ctypes.c_ulonglong]
    made.believed.restype = ctypes.c_bool
    return made


def test_the_agents_logarithm_is_the_recipes(native: Any) -> None:
    values = [0, 1, 2, 3, 15, 16, 17, 31, 32, 1000, 10**9, 2**40 - 1, 2**53 + 1, 2**62 - 1]
    values += [1 << n for n in range(62)] + [(1 << n) - 1 for n in range(1, 62)]
    values += np.random.default_rng(0).integers(0, 1 << 40, 2000).tolist()
    assert [native.logarithm(value) for value in values] == log_of(np.array(values)).tolist()
    # A sixteenth of a power of two, straight between them: never far from the real one.
    large = np.array([value for value in values if value > 16])
    assert np.abs(log_of(large) / 16 - np.log2(large)).max() < 0.15


@pytest.mark.parametrize("seed", range(20))
def test_the_agents_features_are_the_recipes(native: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests = (bursts, homogeneous)[seed % 2](int(rng.integers(1, 3000)), seed)
    if seed % 3 == 0:  # many at the same moment, and numbers as large as they come
        requests["issue"] -= requests["issue"] % 1_000_000
        requests["latency"] -= requests["latency"] % 1_000_000
        requests["depth"] *= rng.choice([1, 1, 70000], len(requests))
        requests["sectors"] = rng.integers(1, 1 << 17, len(requests))
    events = events_of(requests, 1_000_000)
    native.feed(events.ctypes.data_as(ctypes.c_void_p), len(events))
    agents = events["x"][events["done"] == 0]
    names = ("issue", "latency", "depth", "sectors", "write")
    assert np.array_equal(agents, columns_of(*(requests[name] for name in names)))


def believed(native: Any, publishing: bool = False, **counts: int) -> bool:
    recent = (ctypes.c_uint64 * len(RECENT))(*(counts[name] for name in RECENT))
    return bool(native.believed(recent, publishing, 10, 750))


GOOD = {
    "decided": 2000, "slow": 200, "slow_right": 180, "fast_right": 1700,
    "last_slow_right": 120, "last_fast_right": 1700,
}  # fmt: skip


def test_a_model_that_says_more_than_the_last_latency_is_believed(native: Any) -> None:
    assert believed(native, **GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"slow": 15, "slow_right": 15, "last_slow_right": 0},  # too few to say anything
        {"decided": 40000, "fast_right": 39000, "last_fast_right": 35000},  # hardly any is slow
        {"slow_right": 100},  # below the least accuracy
        {"last_slow_right": 180},  # as good as the last latency
        {"last_slow_right": 178},  # hardly better
        {"decided": 200},  # nothing but slow ones
        {"decided": 199},  # counted between two steps of another CPU
        dict.fromkeys(RECENT, 0),
    ],
)
def test_what_says_no_more_is_not(native: Any, change: dict[str, int]) -> None:
    assert not believed(native, **GOOD | change)


def test_what_was_believed_stays_so_a_little_longer(native: Any) -> None:
    close = GOOD | {"slow_right": 112, "last_slow_right": 111}  # 0.752 and 0.750
    assert not believed(native, **close)
    assert believed(native, True, **close)
    assert not believed(native, True, **close | {"slow_right": 100, "last_slow_right": 100})


def test_guessing_on_a_homogeneous_load_is_believed_in_none_of_2000_rounds(native: Any) -> None:
    """Slow at random, and predicted at random: whatever the share, nothing is published."""
    rng = np.random.default_rng(5)
    for _ in range(2000):
        share, said = rng.uniform(0, 0.5, 2)
        slow, guess = rng.random(2048) < share, rng.random(2048) < said
        last = np.roll(slow, 1)
        counts = (
            2048, slow.sum(), (slow & guess).sum(), (~slow & ~guess).sum(),
            (slow & last).sum(), (~slow & ~last).sum(),
        )  # fmt: skip
        assert not believed(native, **dict(zip(RECENT, map(int, counts), strict=True)))


# The recipe.


def record(folder: Path, requests: Any, **tags: str) -> None:
    write_recording(folder, BLOCKIO, windows_for(requests), stored(requests), tags=tags)


def test_slow_begins_where_the_latencies_leave_their_plateau() -> None:
    rng = np.random.default_rng(1)
    for share in (0.03, 0.1, 0.4, 0.6):
        slow = rng.random(20000) < share
        latency = np.where(slow, 5e6, 1e5) * rng.lognormal(0, 0.2, 20000)
        assert ((latency > 1000 * knee_us(latency)) == slow).mean() > 0.995, share
    with pytest.raises(ValueError, match="nothing to predict"):
        knee_us(rng.lognormal(np.log(1e5), 0.2, 20000))
    with pytest.raises(ValueError, match="nothing to predict"):
        knee_us(np.full(1000, 1e5))


def test_a_model_is_learnt_that_beats_the_last_latency(tmp_path: Path, capfd: Any) -> None:
    for seed in range(2):
        record(tmp_path / "data" / str(seed), bursts(12000, seed))
    out = tmp_path / "iolat.kmodel"
    assert main(["train", "iolat", str(tmp_path / "data"), "-o", str(out), "--json"]) == 0
    capfd.readouterr()
    made = ModelFile.load(out)
    assert made.classes == ("fast", "slow")
    scores = made.card["scores"]["later"]
    accuracy = {name: each["balanced_accuracy"]["value"] for name, each in scores.items()}
    assert accuracy["model"] > 0.9
    assert accuracy["model"] > accuracy["rule"] + 0.005
    assert accuracy["majority"] == 0.5
    assert made.quantisation["lost_points"] <= 0.5
    notes = made.card["notes"]
    assert 200 < notes["slow_us"] < 3000
    # What the card says of the training holds for a stream that was not in it.
    fresh = bursts(12000, 7)
    slow = fresh["latency"] > 1000 * notes["slow_us"]
    assert slow.mean() * 1000 == pytest.approx(notes["trained_slow"], rel=0.2)
    names = ("issue", "latency", "depth", "sectors", "write")
    said = evaluate(made.model, columns_of(*(fresh[name] for name in names))).label == 1
    assert balanced_accuracy((said & slow).sum(), slow.sum(), (~said & ~slow).sum(),
                             (~slow).sum()) > 0.9  # fmt: skip


@pytest.mark.parametrize(
    ("made", "tags", "why"),
    [
        (homogeneous(5000), {}, "nothing to predict"),
        (homogeneous(100), {}, "are needed"),
        (bursts(5000), {"slow_us": "many"}, "slow_us has to be"),
        (bursts(5000), {"slow_us": "0"}, "slow_us has to be"),
        (bursts(5000), {"slow_us": "60000000"}, "one class, fast"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_in_one_line(
    made: Any, tags: dict[str, str], why: str, tmp_path: Path, capfd: Any
) -> None:
    record(tmp_path / "data", made, **tags)
    assert main(["train", "iolat", str(tmp_path / "data"), "-o", str(tmp_path / "m")]) != 0
    error = capfd.readouterr().err
    assert why in error
    assert "Traceback" not in error


def test_a_tag_says_what_is_slow(tmp_path: Path) -> None:
    from kmind.learn.recording import open_recordings
    from kmind.learn.train import _recorded

    requests = bursts(3000)
    record(tmp_path / "data", requests, slow_us="150")
    (recording,) = open_recordings(tmp_path / "data")
    dataset = IoLatRecipe().dataset([_recorded(recording)])
    assert dataset.notes["slow_us"] == 150
    assert np.array_equal(dataset.y == 1, requests["latency"] > 150_000)


# The extension.


def shown(words: dict[str, Any], rows: list[dict[str, int]], **options: Any) -> Rig:
    """The extension after windows of a second with such numbers."""
    values = np.zeros((len(rows), len(FEATURES)))
    for number, row in enumerate(rows):
        for name, value in row.items():
            values[number, FEATURES[name]] = value
    with loaded(MODULE) as kind:
        rig = Rig(MODULE.manifest, kind, **options)
        rig.context.params.update(words)
        rig.extension.start()
        for window in made_windows(values, window_s=1.0)["window"]:
            rig.extension.on_windows(window[None])
    return rig


BUSY = {
    "fast": 900, "slow": 100, "fast_as_fast": 880, "fast_as_slow": 20, "slow_as_fast": 10,
    "slow_as_slow": 90, "last_fast_as_slow": 50, "last_slow_as_slow": 50, "said_0": 890,
    "hits_0": 10, "said_4": 110, "hits_4": 90, "fast_depth": 3600, "slow_depth": 4000,
    "abstaining": 0, "predicted": 110,
}  # fmt: skip


def test_the_status_says_what_predictions_are_worth() -> None:
    status = dict(shown({}, [BUSY] * 20).extension.status())
    assert status["state"] == "predicting"
    assert status["balanced_accuracy"] == pytest.approx((0.9 + 880 / 900) / 2, abs=1e-4)
    assert status["last_latency_accuracy"] == pytest.approx((0.5 + 850 / 900) / 2, abs=1e-4)
    assert status["calibration"][0] == pytest.approx(10 / 890, abs=1e-3)
    assert status["calibration"][1:4] == [None] * 3
    assert status["calibration"][4] == pytest.approx(90 / 110, abs=1e-3)
    assert status["slow_share"] == pytest.approx(0.1)
    json.dumps(status)


def test_without_a_model_it_only_collects() -> None:
    rig = shown({}, [{"fast": 900, "slow": 100, "abstaining": 1}] * 20)
    status = rig.extension.status()
    assert status["state"] == "abstaining"
    assert "balanced_accuracy" not in status
    assert rig.made == []


def test_drift_is_told_against_the_training() -> None:
    assert shown({"trained_slow": 100}, [BUSY] * 20).extension.status()["drift"] == "none"
    for trained in (10, 400):
        rig = shown({"trained_slow": trained}, [BUSY] * 20)
        assert rig.extension.status()["drift"] == "drifted", trained
        assert [line for line in rig.said if "train again" in line]
    assert "drift" not in shown({}, [BUSY] * 20).extension.status()


def test_what_is_held_is_renewed_until_it_is_dropped() -> None:
    rows = [BUSY | {"slow_depth": 100 * 4000}] * 20
    rig = shown({}, rows, bounds="from above")
    values = np.zeros((40, len(FEATURES)))
    values[:, FEATURES["abstaining"]] = 1  # nothing is slow any more
    quiet = made_windows(values, window_s=1.0)["window"]
    held = len(rig.made)
    rig.now += 15
    rig.extension.on_windows(quiet[:1])
    assert len(rig.made) == held + 1
    assert len({made.value for made in rig.made}) == 1
    change = ChangeEvent(
        "dropped", rig.made[-1].id, "block.nr_requests", rig.made[-1].value, "loss"
    )
    rig.extension.on_change(change)
    rig.now += 15
    rig.extension.on_windows(quiet[1:])
    assert len(rig.made) == held + 1


def test_a_shorter_queue_is_advised_where_slow_ones_met_a_longer_one() -> None:
    rig = shown({}, [BUSY | {"slow_depth": 100 * 4000}] * 20, bounds="from above")
    assert rig.made
    assert rig.made[0].value < int(rig.knobs["block.nr_requests"].baseline)
    for other in (
        BUSY | {"slow_depth": 400 * 100, "fast_depth": 400 * 900},
        BUSY | {"slow_depth": 100 * 4000, "abstaining": 1},
        BUSY | {"slow_depth": 4000, "slow": 10, "fast": 990},
    ):
        assert shown({}, [other] * 20, bounds="from above").made == []


BESIDE = BUSY | {
    "reads": 500, "slow_reads": 5, "reads_beside": 400, "slow_reads_beside": 80, "slow_depth": 400,
}  # fmt: skip


def test_reads_that_writes_make_slow_are_advised_for() -> None:
    rig = shown({"slow_us": 800}, [BESIDE] * 20, bounds="from above")
    throttle, scheduler = rig.knobs["block.wbt_lat_usec"], rig.knobs["block.scheduler"]
    first = rig.made[0]
    assert (first.knob, first.value) == (throttle.id, 800)
    assert first.note["evidence"]["slow_beside_writes"] == pytest.approx(0.2, abs=1e-3)
    assert first.note["evidence"]["slow_without"] == pytest.approx(0.01, abs=1e-3)
    # It did not help: a scheduler is next, where there is none.
    change = ChangeEvent("dropped", first.id, throttle.name, first.value, "no change")
    rig.extension.on_change(change)
    assert scheduler.baseline != "none"
    assert next(rig.extension._find(rig.now), None) is None
    rig.context.knobs["block.scheduler"] = replace(scheduler, baseline="none")
    values = np.zeros((1, len(FEATURES)))
    for name, value in BESIDE.items():
        values[0, FEATURES[name]] = value
    rig.now += 15
    rig.extension.on_windows(made_windows(values, window_s=1.0)["window"])
    last = rig.made[-1]
    assert (last.knob, scheduler.choices[last.value]) == (scheduler.id, "mq-deadline")


@pytest.mark.parametrize(
    "change",
    [
        {"slow_reads": 100},  # slow without writes too
        {"slow_reads_beside": 10},  # few of them
        {"reads_beside": 4, "slow_reads_beside": 4},  # seen too seldom
        {"abstaining": 1},
    ],
)
def test_reads_that_are_slow_for_another_reason_are_not(change: dict[str, int]) -> None:
    assert shown({"slow_us": 800}, [BESIDE | change] * 20, bounds="from above").made == []
