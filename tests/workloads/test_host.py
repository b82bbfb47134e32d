# SPDX-License-Identifier: Apache-2.0
"""Disks, page cache, memory and tools, as loads ask for them."""

import errno
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from workloads.on_disk import MIB, ON_THE_MACHINE

from kmind.errors import KmindError, NotSupportedError, UsageError
from kmind.util.packages import install_hint
from kmind.workloads import fio, host


@ON_THE_MACHINE
def test_a_memory_limit_holds_and_goes_even_after_a_failure():
    groups = []

    def take_too_much():
        with host.memory_limit(64 * MIB) as procs:
            groups.append(procs.parent)
            assert groups[0].is_dir()
            host.run_process([sys.executable, "-c", f"bytearray({256 * MIB})"], procs=procs)

    with pytest.raises(KmindError, match="status"):
        take_too_much()
    assert not groups[0].exists()


@ON_THE_MACHINE
def test_two_memory_limits_at_once():
    with host.memory_limit(64 * MIB) as first, host.memory_limit(64 * MIB) as second:
        assert first != second


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES])
def test_a_memory_controller_that_others_use_stays(monkeypatch, tmp_path, number):
    """The kernel's refusal is played: on a machine whose cgroups are version 1 there is none."""
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")

    def refuse(self, text):
        assert text == "-memory"
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", refuse)
    expected = pytest.raises(PermissionError) if number == errno.EACCES else nullcontext()
    with expected:
        host._disable_memory(tmp_path)


def test_a_missing_tool_names_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupportedError, match=re.escape(install_hint("db_bench"))):
        host.find_tool("db_bench")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(KmindError, match="GiB are needed"):
        fio.lay_out_file(tmp_path, 1 << 60)
    assert not list(tmp_path.iterdir())


def test_a_program_that_fails_says_so_with_its_last_line():
    with pytest.raises(KmindError, match="status 3: worse"):
        host.run_process(["sh", "-c", "echo bad >&2; echo worse >&2; exit 3"])


@pytest.mark.parametrize(("handler", "status"), [("SIG_DFL", -2), ("SIG_IGN", -9)])
def test_stopping_interrupts_and_then_kills(handler, status):
    # It says itself what it does about SIGINT: what a shell starts with & ignores it.
    process = subprocess.Popen(
        [sys.executable, "-c",
         f"import signal,time; signal.signal(2, signal.{handler}); print(flush=True); "
         "time.sleep(60)"],
        text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        process.stdout.readline()
        assert host.stop_process(process, grace=10 if status == -2 else 0.1) == status
        assert host.stop_process(process) == status


def test_the_disk_below_a_path_is_a_whole_one(folder):
    name = host.device_of(folder)
    assert Path("/sys/block", name).is_dir()
    assert not Path("/sys/block", name, "partition").exists()


def test_no_disk_below_a_path():
    with pytest.raises(NotSupportedError, match="not on a block device"):
        host.device_of(Path("/proc"))
    with pytest.raises(UsageError, match="no such path"):
        host.device_of(Path("/no/such/path"))


def test_a_balloon_waits_while_a_load_runs(tmp_path):
    delay = tmp_path / "min_free_ms"
    delay.write_text("7\n")
    with host.free_memory_kept(delay):
        assert int(delay.read_text()) >= 60_000
    assert delay.read_text() == "7\n"
    with host.free_memory_kept(tmp_path / "none"):
        assert not (tmp_path / "none").exists()
