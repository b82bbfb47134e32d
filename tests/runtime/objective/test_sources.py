# SPDX-License-Identifier: Apache-2.0
"""Sources of objectives: the kernel's figures, Prometheus, a command, and their faults."""

import time
from pathlib import Path

import pytest
from runtime.objective.asked import SYSTEM, gap, never

from kmind.errors import UsageError
from kmind.knobs import Target
from kmind.runtime.objective.sources import BUILT_IN, parse_objective

# Built in


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    pressure = tmp_path / "proc/pressure"
    pressure.mkdir(parents=True)
    for name in ("cpu", "io", "memory"):
        (pressure / name).write_text(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
        )
    disk = tmp_path / "sys/block/sda"
    disk.mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "stat").write_text("100 0 800 250 20 0 160 50 0 0 0\n")
    return tmp_path


def test_pressure_is_the_share_of_the_time_since_the_last_look(machine: Path) -> None:
    objective = parse_objective("psi.io.some", SYSTEM, root=machine)
    assert objective.better == "lower"
    assert objective.ask(never) is None
    began = time.monotonic()
    file = machine / "proc/pressure/io"
    file.write_text(file.read_text().replace("total=1000000", "total=1000000000"))
    value = objective.ask(never)
    assert value is not None
    assert value > 999 / (time.monotonic() - began + 5)


def test_a_disks_figures_come_from_its_counters(machine: Path) -> None:
    disk = Target.block("sda", root=machine)
    latency = parse_objective("block.latency", disk)
    named = parse_objective("block.bytes:sda", SYSTEM, root=machine)
    assert latency.ask(never) is None
    assert named.ask(never) is None
    stat_file = machine / "sys/block/sda/stat"
    stat_file.write_text("110 0 1600 350 30 0 320 150 0 0 0\n")
    assert latency.ask(never) == 10  # 200 ms more for 20 requests
    value = named.ask(never)
    assert value is not None
    assert value > 0
    assert (latency.better, named.better) == ("lower", "higher")
    assert gap(latency)[0] == "empty"  # no request since
    stat_file.write_text("?\n")
    assert gap(latency)[0] == "failed"
    stat_file.write_text("110 0 1600 350 30 0 320 150 0 0 0\n")
    assert latency.ask(never) is None  # begins anew


def test_a_disks_clock_of_32_bits_wraps(machine: Path) -> None:
    disk, stat_file = Target.block("sda", root=machine), machine / "sys/block/sda/stat"
    latency = parse_objective("block.latency", disk)
    looks = [
        "1000 0 8000 4294967200 1000 0 8000 4294967290 0 1 1",
        "1100 0 8800 4294967290 1050 0 8400 14 0 1 1",  # the writes' time wraps alone
        "1200 0 9600 104 1100 0 8800 34 0 1 1",
    ]
    found = []
    for look in looks:
        stat_file.write_text(look + "\n")
        found.append(latency.ask(never))
    assert found == [None, pytest.approx(110 / 150), pytest.approx(130 / 150)]


@pytest.mark.parametrize(
    ("name", "later", "why"),
    [
        ("block.latency", "90 0 700 250 20 0 160 50 0 0 0", "counters were reset"),
        ("block.latency", "900 0 800 5 20 0 160 50 0 0 0", "counters were reset"),
        ("block.requests", "90 0 800 250 20 0 160 50 0 0 0", "counters were reset"),
        ("block.bytes", "100 0 700 250 20 0 160 50 0 0 0", "counters were reset"),
    ],
)
def test_totals_that_fell_are_a_gap_and_no_rate(
    machine: Path, name: str, later: str, why: str
) -> None:
    objective = parse_objective(name, Target.block("sda", root=machine))
    assert objective.ask(never) is None
    (machine / "sys/block/sda/stat").write_text(later + "\n")
    assert why in gap(objective)[1]
    (machine / "sys/block/sda/stat").write_text("1900 0 9800 950 20 0 160 50 0 0 0\n")
    value = objective.ask(never)
    assert value is not None
    assert value > 0


def test_another_disk_of_the_same_name_is_a_gap(machine: Path) -> None:
    disk = machine / "sys/block/sda"
    (disk / "diskseq").write_text("7\n")
    latency = parse_objective("block.latency", Target.block("sda", root=machine))
    assert latency.ask(never) is None
    (disk / "diskseq").write_text("8\n")
    (disk / "stat").write_text("200 0 1600 350 30 0 320 150 0 0 0\n")
    assert "another disk" in gap(latency)[1]


def test_pressure_that_fell_is_a_gap(machine: Path) -> None:
    objective = parse_objective("psi.io.some", SYSTEM, root=machine)
    assert objective.ask(never) is None
    file = machine / "proc/pressure/io"
    file.write_text(file.read_text().replace("total=1000000", "total=999"))
    assert gap(objective)[0] == "failed"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_objective_is_there(name: str, machine: Path) -> None:
    objective = parse_objective(name, Target.block("sda", root=machine), root=machine)
    assert objective.better in BUILT_IN[name]
    assert objective.ask(never) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unknown objective ''"),
        ("latency", "take one of psi.cpu.some"),
        ("psi.io", "unknown objective"),
        ("psi.io.some:vda", "unknown objective"),
        ("block.latency", "needs a disk"),
        ("block.latency:nosuch", "unknown block device"),
        ("prometheus:", "names no server or no query"),
        ("prometheus:http://127.0.0.1:9090", "names no server or no query"),
        ("prometheus:file:///etc/passwd?query=up", "names no server or no query"),
        ("prometheus:http://127.0.0.1:port?query=up", "names no server or no query"),
        ("prometheus:http://[::1:9090?query=up", "names no server or no query"),
        ("prometheus:http://a b/?query=up", "names no server or no query"),
        ("prometheus:http://h/?x=1&query=up", "names no server or no query"),
        ("prometheus:http://h/#x?query=up", "names no server or no query"),
        (f"prometheus:http://{'a' * 64}.org?query=up", "names no server or no query"),
        ("prometheus:http://h?query= ", "cannot be printed"),
        ("prometheus:http://h?query=up%0a", "cannot be printed"),
        ("prometheus:http://h?query=x%10", "write the operator % as %25"),
        ("prometheus:http://h?query=up&time=1", "only query= is taken"),
        ("prometheus:http://h/api/v1/query_range?query=up", "name the server alone"),
        ("prometheus:http://h/graph?query=up", "name the server alone"),
        ("psi.\x1b[2J", "cannot be printed"),
        ("command:/bin/echo \x1b[2J", "cannot be printed"),
        ("command:", "names no program"),
        ("command:rate --now", "names no program"),
        ("command:/nosuch/program", "there is no /nosuch/program"),
        ("command:/bin/echo 'x", "No closing quotation"),
    ],
)
def test_what_names_nothing_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objective(text, SYSTEM)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "http://tuner:s3cret@127.0.0.1?query=up",
        "https://tuner:s3cret@[::1]:9090/p/api/v1/query?query=up",
        "http://s3cret@host?query=up",
        "http://tuner:s3/cr@s3cret@host?query=up",
        "http://tuner%3As3cret%40host?query=up",
        "http://tuner:s3cret@host",
        "//tuner:s3cret@host?query=up",
        "tuner:s3cret@host?query=up",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objective(f"prometheus:{url}", SYSTEM)
    assert "s3cret" not in str(caught.value)
    known = "://" in url and "@" in url and "query" in url and "s3/" not in url
    assert ("credentials are not taken from a URL" in str(caught.value)) == known


def test_a_kernel_without_pressure_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this kernel does not provide it"):
        parse_objective("psi.io.some", SYSTEM, root=tmp_path)


# Prometheus


# Commands
