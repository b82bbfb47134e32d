# SPDX-License-Identifier: Apache-2.0
"""That the rules of conftest.py see what they should, on the real machine."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import machine
import pytest
from programs import program

HERE = Path(__file__).resolve().parent
SETTING = Path("/proc/sys/vm/stat_interval")  # how often counters are folded: harmless


@pytest.mark.kernel
def test_a_changed_setting_is_seen_and_put_back() -> None:
    before = machine.full()
    old = SETTING.read_text().strip()
    SETTING.write_text("7")
    lines = machine.differences(before, machine.full())
    machine.put_back(before)
    assert f"{SETTING} was {old!r} and is '7'" in lines
    assert SETTING.read_text().strip() == old


@pytest.mark.kernel
def test_a_mount_is_seen(tmp_path: Path) -> None:
    before = machine.quick()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        lines = machine.differences(before, machine.quick())
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert lines == [f"left behind: mount of tmpfs at {tmp_path}"]
    assert machine.differences(before, machine.quick()) == []


@pytest.mark.kernel
def test_a_pin_and_a_program_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "left.bpf.c"
    source.write_text(
        '__attribute__((section("socket"), used)) int left(void *c) { return 0; }\n'
        'char _license[] __attribute__((section("license"), used)) = "GPL";\n'
    )
    subprocess.run(
        ["clang-19", "-O2", "-g", "-target", "bpf", "-c", source, "-o", tmp_path / "left.o"],
        check=True,
    )
    before = machine.full()
    pin = Path("/sys/fs/bpf/left")
    subprocess.run([program("bpftool"), "prog", "load", tmp_path / "left.o", pin], check=True)
    try:
        lines = machine.differences(before, machine.full())
    finally:
        pin.unlink()
    assert f"left behind: pin {pin}" in lines
    assert any(line.startswith("left behind: BPF program") and "(left)" in line for line in lines)
    assert machine.settled(before, machine.full) == []


def test_an_orphan_is_seen() -> None:
    """A process whose parent is gone is known by the environment that it inherited."""
    before = machine.quick()
    started = subprocess.run(
        ["sh", "-c", "setsid sleep 60 >/dev/null & echo $!"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    pid = int(started.stdout)
    try:
        # An exec changes the name first; its environment is empty until it is through.
        while _name(pid) != "sleep" or not Path(f"/proc/{pid}/environ").read_bytes():
            time.sleep(0.01)
        assert pid in machine.children()
        lines = machine.differences(before, machine.quick())
    finally:
        os.kill(pid, 9)
    assert f"left behind: process {pid} (sleep 60)" in lines
    assert machine.settled(before, machine.quick) == []


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def nested(folder: Path, source: str, **environment: str) -> str:
    """Run pytest under conftest.py's rules on this source; return what it prints."""
    (folder / "test_nested.py").write_text(source)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-q", "-ra", "test_nested.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent / 'src'}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


SKIPS = """
import pytest

def test_skips():
    pytest.skip("no reason")

@pytest.mark.xfail
def test_fails_as_expected():
    assert False
"""


def test_a_skip_fails_under_ci_only(tmp_path: Path) -> None:
    assert "1 skipped, 1 xfailed" in nested(tmp_path, SKIPS, CI="")
    assert "1 failed, 1 xfailed" in nested(tmp_path, SKIPS, CI="true")


def test_a_file_that_skips_itself_fails_under_ci(tmp_path: Path) -> None:
    source = "import pytest\npytest.importorskip('no_such_module')\n"
    assert "1 skipped" in nested(tmp_path, source, CI="")
    assert "1 error" in nested(tmp_path, source, CI="true")


@pytest.mark.kernel
def test_a_feature_that_is_not_there_may_be_skipped_under_ci(tmp_path: Path) -> None:
    source = """
import pytest
from kmind.bpf import probe
from types import SimpleNamespace

gone = SimpleNamespace(name="gone", state="refused", cause="EPERM")
probe.names = lambda: ("gone",)
probe.probe = lambda name: gone

@pytest.mark.kernel("gone")
def test_needs_it():
    assert False
"""
    assert "1 skipped" in nested(tmp_path, source, CI="true")


@pytest.mark.kernel
def test_a_feature_that_nobody_knows_fails(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.kernel('arenna')\ndef test_it():\n    pass\n"
    assert "arenna is no feature" in nested(tmp_path, source)


LEAVES = """
import pytest, subprocess

left = []

@pytest.mark.fault
def test_guilty():
    left.append(subprocess.Popen(["sleep", "30"]))

@pytest.mark.fault
def test_innocent():
    pass

def test_ends_it():
    left[0].kill()
    left[0].wait()
"""


def test_the_guilty_test_is_named(tmp_path: Path) -> None:
    printed = nested(tmp_path, LEAVES)
    assert "ERROR test_nested.py::test_guilty" in printed
    assert "left behind: process" in printed
    assert "ERROR test_nested.py::test_innocent" not in printed
    assert "3 passed" in printed


def test_a_run_that_leaves_a_process_fails(tmp_path: Path) -> None:
    source = "import subprocess\ndef test_quiet():\n    subprocess.Popen(['sleep', '20'])\n"
    printed = nested(tmp_path, source)
    left = re.search(r"left behind: process (\d+) \(sleep 20\)", printed)
    assert left, printed
    os.kill(int(left[1]), 9)
    assert "1 passed, 1 error" in printed
