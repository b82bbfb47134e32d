# SPDX-License-Identifier: Apache-2.0
"""The bench "iolat", small, with the real fio, kernel and training."""

import json
from pathlib import Path

import numpy as np
import pytest

from kmind.bench import iolat
from kmind.errors import NotSupportedError
from kmind.infer import Feature, ModelFile, from_sklearn, quantise
from kmind.modules.iolat.recipe import COLUMNS
from kmind.workloads.host import device_of

MIB = 1 << 20


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bench on 64 MiB, with one round of half a second."""
    monkeypatch.setattr(iolat, "_SIZE", 64 * MIB)
    monkeypatch.setattr(iolat, "_QUICK_ROUNDS", 1)
    monkeypatch.setattr(iolat, "_QUICK_OVERHEAD_S", 0.5)


def learnt() -> ModelFile:
    """A model as `kmind train` would make one, with the part of its card that the bench reads."""
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    x = rng.integers(0, 40, (400, len(COLUMNS)))
    y = (x[:, 0] > 20).astype(int)
    arms = {
        arm: {"balanced_accuracy": {"value": 0.5 + number / 10}}
        for number, arm in enumerate(iolat._BASELINES.values())
    }
    card = {
        "scores": {"later": arms},
        "notes": {"slow_us": 500, "trained_slow": 125, "requests": 400},
        "family": "tree",
    }
    features = [Feature(column.name, column.unit) for column in COLUMNS]
    tree = from_sklearn(DecisionTreeClassifier(max_depth=2).fit(x, y))
    return quantise(tree, x, (x, y), features=features, card=card)


@pytest.mark.kernel("syscall", "tp_btf", "bpf_timer")
def test_the_result_has_every_number_and_says_what_is_missing(
    short: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_brake(file: Path, seconds: float) -> ModelFile:
        raise NotSupportedError("no throttling here")

    monkeypatch.setattr(iolat, "_bursts", lambda file, seconds: learnt())
    monkeypatch.setattr(iolat, "_injected", no_brake)
    result = iolat.run_iolat_bench(quick=True, dir=tmp_path)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["schema"] == "kmind.bench.iolat/1"
    assert result["machine"]["disk"]["name"] == device_of(tmp_path)
    assert result["missing"] == {"injected": "no throttling here"}
    (row,) = result["loads"]
    assert (row["load"], row["slow_us"], row["slow_share"]) == ("bursts", 500, 0.125)
    assert [row[name] for name in iolat._BASELINES] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert result["decided"] > 0  # the model was asked about fio's reads
    for name in ("iolat_overhead_percent", "aa_percent"):
        assert result[name] < 100
        assert result[f"{name}_spread"] >= 0


@pytest.mark.kernel("syscall")
def test_what_slows_the_disk_is_gone_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    disk = device_of(tmp_path)
    with iolat._loop(file) as node:
        assert Path(node).is_block_device()
        with iolat._braked(disk) as (procs, brake):
            rule = procs.with_name("blkio.throttle.read_iops_device")
            brake(100)
            assert rule.read_text().split()[-1] == "100"
            brake(0)
            assert rule.read_text().strip() == ""
        assert not procs.parent.exists()
    assert not Path("/sys/block", Path(node).name, "loop/backing_file").exists()
