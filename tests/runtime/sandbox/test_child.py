# SPDX-License-Identifier: Apache-2.0
"""The extension's process holds nothing: seen from outside, and tried from inside."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from extension_process import running
from runtime.sandbox.prisoner import status_of

from kmind.runtime.sandbox.uids import FIRST_UID, LAST_UID

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.kernel()


def open_files(pid: int) -> dict[int, str]:
    return {int(entry.name): str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def test_seen_from_outside(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.alive()
        pid = run.process.pid
        status = status_of(pid)
        uids = status["Uid"].split()
        assert len(set(uids)) == 1
        assert FIRST_UID <= int(uids[0]) <= LAST_UID < 61184  # from there on systemd's
        assert status["Gid"].split() == uids
        assert status["Groups"].split() == []
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Threads"] == "1"
        assert int(status["Umask"], 8) == 0o777
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        files = open_files(pid)
        assert files.pop(0) == "/dev/null"
        assert files.pop(1).startswith("pipe:")
        assert files.pop(2).startswith("pipe:")
        assert list(files.values()) == ["anon_inode:[eventfd]"]  # the doorbell
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0  # not dumpable


def test_no_descriptor_leaks_into_it(tmp_path: Path) -> None:
    # Not even one that its owner forgot to mark.
    with tmp_path.joinpath("secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with running(tmp_path, keep=True, log=str(tmp_path / "log")) as run:
            run.alive()
            files = open_files(run.process.pid)
            assert files.pop(0) == "/dev/null"
            assert files.pop(1) == files.pop(2) == str(tmp_path / "log")
            assert list(files.values()) == ["anon_inode:[eventfd]"]


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")
def test_descriptors_beside_a_real_agent(bench: "Bench") -> None:
    bench.start("observe")
    assert bench.instance
    files = open_files(bench.instance.extension.current.pid)
    assert sorted(files)[:3] == [0, 1, 2]
    assert [files[fd] for fd in sorted(files)[3:]] == ["anon_inode:bpf-map"]
