# SPDX-License-Identifier: Apache-2.0
"""The bench "autotune", small: real knobs and ``kmind run``, and a load whose rate is made up."""

import contextlib
import itertools
import json
import time
from pathlib import Path

import pytest

from kmind.bench import autotune
from kmind.errors import UsageError
from kmind.knobs import get_knob, parse_target
from kmind.workloads import loads
from kmind.workloads.host import device_of

NEEDS = pytest.mark.kernel("syscall", "tp_btf")
KNOBS = ("block.rq_affinity", "block.nomerges")
TRIES = 3
# Beside these a bench has an arm for each of tuned's profiles, where tuned is installed.
ARMS = ("default", "default_again", "sweep")
TUNED = tuple(
    f"tuned_{name}".replace("-", "_")
    for name in autotune.PROFILES
    if any((folder / name).is_dir() for folder in autotune._TUNED)
)


def settings(disk: str) -> dict[str, object]:
    return {name: get_knob(name).read(parse_target(disk)) for name in KNOBS}


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """A load that does 1,000 a second, half as much again under another ``rq_affinity``: which."""
    target, knob = parse_target(device_of(tmp_path)), get_knob("block.rq_affinity")
    better = 0 if knob.read(target) == 2 else 2

    @contextlib.contextmanager
    def load(folder: Path, quick: bool):
        done, last, noise = 0.0, time.monotonic(), itertools.cycle([0.99, 1.0, 1.01])

        def count() -> float:
            nonlocal done, last
            now = time.monotonic()
            done += (now - last) * (1500 if knob.read(target) == better else 1000) * next(noise)
            last = now
            return done

        yield count

    monkeypatch.setattr(autotune, "LOADS", {"made-up": load})
    monkeypatch.setattr(loads, "LOADS", {"made-up": load})
    monkeypatch.setattr(autotune, "KNOBS", {"made-up": KNOBS})
    monkeypatch.setattr(autotune, "_QUICK", autotune._Plan(60, 0.2, 0.5, 2, 6))
    return better


@NEEDS
@pytest.mark.timeout(900)
def test_what_is_to_be_found_is_found_and_beats_the_default(made_up, tmp_path):
    disk = device_of(tmp_path)
    before = settings(disk)
    # The search takes most of its minute on a quiet machine, and may come to nothing beside others.
    for _ in range(TRIES):
        result = autotune.run_autotune_bench(quick=True, dir=tmp_path, only=["made-up"])
        if result["workloads"][0]["settings"]["kmind"]:
            break
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["schema"] == autotune.SCHEMA
    [row] = result["workloads"]
    for arm in (*ARMS, *TUNED):
        assert row[arm] > 0
        assert row[f"{arm}_spread"] >= 0
        assert row[f"vs_{arm}_low"] <= row[f"vs_{arm}"] <= row[f"vs_{arm}_high"]
    assert row["settings"]["kmind"]["block.rq_affinity"] == made_up
    assert row["vs_default"] == pytest.approx(1.5, abs=0.1)
    assert row["aa"] == pytest.approx(1, abs=0.1)
    assert row["trials"] > 0
    assert settings(disk) == before


def test_a_load_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="choose from fio-fsync,"):
        autotune.run_autotune_bench(dir=tmp_path, only=["nothing"])


def test_each_load_has_knobs():
    assert set(autotune.KNOBS) == set(loads.LOADS)
    for name in itertools.chain.from_iterable(autotune.KNOBS.values()):
        assert get_knob(name).target in ("block", "system")
