# SPDX-License-Identifier: Apache-2.0
"""The bench "readahead", small, with the real fio, kernel and ``kmind run``."""

import json
from pathlib import Path

import pytest

from kmind.bench import readahead
from kmind.bench.readahead import run_readahead_bench
from kmind.errors import KmindError, UsageError
from kmind.knobs import get_knob, parse_target
from kmind.modules.readahead.recipe import ReadaheadRecipe
from kmind.workloads.disk import Fio
from kmind.workloads.fio import FioJob
from kmind.workloads.host import device_of

MIB = 1 << 20
NEEDS = pytest.mark.kernel("syscall", "tp_btf")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The same bench with files of 64 MiB, for a second or two."""
    plan = readahead._Plan(1, 1, 2, 1, 1, [16], [knob(tmp_path)])

    def make_workload(name, *, quick):
        kind = "read" if "sequential" in name else "randread"
        return Fio(name, FioJob("psync", kind), 64 * MIB, limit=32 * MIB)

    monkeypatch.setenv("KMIND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(readahead, "_QUICK", plan)
    monkeypatch.setattr(readahead, "make_workload", make_workload)


def knob(path: Path) -> int:
    return get_knob("block.read_ahead_kb").read(parse_target(device_of(path)))


@NEEDS
def test_the_result_has_every_number_beside_its_spread(small, tmp_path, capsys):
    before = knob(tmp_path)
    result = run_readahead_bench(quick=True, dir=tmp_path, only=["mmap-random", "observe", "cpu"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["schema"] == "kmind.bench.readahead/4"
    assert result["machine"]["disk"]["name"] == device_of(tmp_path)
    rows = result["workloads"]
    assert [(row["name"], row["from"]) for row in rows] == [("mmap-random", before)]
    for row in rows:
        assert all(visit > 0 for visit in row["visits"])
        for name in ("default", "oracle", "kmind"):
            assert row[name] > 0
            assert row[f"{name}_spread"] >= 0
        for name in ("vs_default", "vs_oracle"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["oracle"] >= row["default"]
        assert str(row["oracle_value"]) in row["sweep"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in said] == rows
    swept = {int(value): result for value, result in rows[0]["sweep"].items()}
    assert {16, before} < set(swept)
    cpu = ("cpu", "cpu_extension", "cpu_owner", "cpu_programs")
    for name in ("observe_overhead", "observe_aa", *cpu):
        assert f"{name}_percent" in result
        assert result[f"{name}_percent_spread"] >= 0
    assert result["observe_overhead_percent"] < 100
    assert result["cpu_percent"] > 0
    assert knob(tmp_path) == before


@pytest.mark.parametrize(
    ("best", "swept"),
    [
        (4, [8192, 4096, 1024, 256, 128, 64, 16, 4, 8]),
        (32, [8192, 4096, 1024, 256, 128, 64, 16, 4, 32]),  # 64 and 16 alike: 32 and 128 beside 64
        (1024, [8192, 4096, 1024, 256, 128, 64, 512, 2048]),  # 16 and 4 are left out
        (8192, [8192, 4096, 1024, 256, 128]),  # 128 is a start
    ],
)
def test_a_sweep_is_coarse_and_then_fine(tmp_path, monkeypatch, best, swept):
    bench = readahead._Bench(readahead._FULL, False, tmp_path, device_of(tmp_path))
    runs = []

    def fixed(load, value, seconds):
        runs.append(value)
        return 1000.0 / max(value / best, best / value) ** 0.5

    monkeypatch.setattr(bench, "_fixed", fixed)
    assert set(bench._swept(None)) == set(swept)
    assert runs == swept


@NEEDS
def test_a_knob_that_somebody_else_sets_spoils_the_run(small, tmp_path):
    bench = readahead._Bench(readahead._QUICK, True, tmp_path, device_of(tmp_path))
    target, setting = bench._target, bench._knob
    before = setting.read(target)
    runs = []

    class Disturbed(Fio):
        def run(self, duration):
            runs.append(setting.read(target))
            setting.write(target, 64)
            return super().run(duration)

    load = Disturbed("load", FioJob("psync", "randread"), 8 * MIB)
    load.prepare(tmp_path)
    try:
        with pytest.raises(KmindError, match="changed by somebody else in each of 3 runs"):
            bench._fixed(load, 16, 1)
    finally:
        setting.write(target, before)
    assert runs == [16, 16, 16]


@pytest.mark.kernel("syscall")
def test_what_a_proposal_costs(tmp_path):
    result = run_readahead_bench(quick=True, dir=tmp_path, only=["proposal"])
    rows = result["proposal"]
    assert [row["family"] for row in rows] == list(ReadaheadRecipe.models)
    for row in rows:
        assert row["bit_exact"]
        assert 0 < row["kernel_ns"] < row["user_ns"]
        assert row["user_percent"] == pytest.approx(row["user_ns"] / 1e6)


def test_a_part_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="choose from mmap-random,"):
        run_readahead_bench(dir=tmp_path, only=["nothing"])


def test_the_loads_of_all_parts_exist():
    names = [*readahead.WORKLOADS, *readahead._OVERHEAD.values(), readahead._STEADY]
    assert all(readahead.make_workload(name).name == name for name in names)
