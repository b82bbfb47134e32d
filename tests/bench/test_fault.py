# SPDX-License-Identifier: Apache-2.0
"""The bench of the driver fault, and the programs whose power it cuts."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import require_devices

from kmind.bench._power_cuts import PowerCuts
from kmind.bench._power_loads import LOADS, PLANTED, SOUND
from kmind.bench.fault import run_fault_bench


@pytest.mark.parametrize("name", LOADS)
def test_a_program_is_content_with_what_it_wrote_and_with_each_step(
    name: str, tmp_path: Path
) -> None:
    load = LOADS[name]
    steps: list[int] = []

    def done(step: int) -> None:
        steps.append(step)
        if step % 7 == 0 and name != "sqlite_full":  # which is open now
            assert load.check(tmp_path, len(steps)) == ""

    load.prepare(tmp_path)
    assert load.check(tmp_path, 0) == ""
    load.run(tmp_path, done)
    assert steps == list(range(40))
    assert load.check(tmp_path, 40) == ""


def lose_a_row(folder: Path) -> None:
    with sqlite3.connect(folder / "database") as database:
        database.execute("DELETE FROM t WHERE n = 39")


def tear(folder: Path, copies: range) -> None:
    table = bytearray((folder / "table").read_bytes())
    for copy in copies:
        table[copy * 16384 + 8192 : copy * 16384 + 8704] = bytes(512)
    (folder / "table").write_bytes(table)


@pytest.mark.parametrize(
    ("name", "harm", "complaint"),
    [
        ("synced_files", lambda folder: (folder / "39").unlink(), "file 39 of 40 is not there"),
        (
            "synced_files",
            lambda folder: (folder / "0").write_bytes(b""),
            "file 0 of 40 has 0 bytes",
        ),
        ("torn_page", lambda folder: tear(folder, range(8)), "page 0 is torn"),
        ("checked_pages", lambda folder: tear(folder, range(8)), "page 0 has no whole copy"),
        ("checked_pages", lambda folder: tear(folder, range(1)), "page 0 has version 9, not 10"),
        ("sqlite_full", lose_a_row, "40 rows were committed, and 39 are there"),
    ],
)
def test_a_check_sees_what_is_wrong(
    name: str, harm: Callable[[Path], None], complaint: str, tmp_path: Path
) -> None:
    LOADS[name].prepare(tmp_path)
    LOADS[name].run(tmp_path, lambda _: None)
    harm(tmp_path)
    assert complaint in LOADS[name].check(tmp_path, 40)


@pytest.mark.kernel
@pytest.mark.fault
@pytest.mark.needs("mkfs.ext4", "unshare")
@pytest.mark.parametrize("name", PLANTED)
def test_power_cuts_bring_out_a_planted_mistake(name: str) -> None:
    require_devices()
    with PowerCuts(name, seed=2) as power:
        found = next(number for number in range(200) if power.cut(number))
        complaint = power.cut(found)
    assert "is torn" in complaint or "of 40" in complaint or "file" in complaint


@pytest.mark.kernel
@pytest.mark.fault
@pytest.mark.needs("mkfs.ext4", "unshare")
@pytest.mark.parametrize("name", SOUND)
def test_power_cuts_raise_no_false_alarm(name: str) -> None:
    require_devices()
    with PowerCuts(name, seed=2) as power:
        assert [power.cut(number) for number in range(25)] == [""] * 25


@pytest.mark.kernel
@pytest.mark.needs("fio")
def test_a_quick_run_gives_every_number() -> None:
    require_devices()
    result = run_fault_bench(quick=True)
    assert json.loads(json.dumps(result)) == result
    assert result["latency_without_delay_ms"] > 0
    for name in ("1ms", "5ms", "20ms", "5ms_depth_16", "lognormal_2ms"):
        if name != "lognormal_2ms":
            assert result[f"error_{name}_p50_ms"] > 0, "no answer comes early"
        assert result[f"error_{name}_p99_worst_ms"] >= result[f"error_{name}_p99_ms"]
