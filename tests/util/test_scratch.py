# SPDX-License-Identifier: Apache-2.0
"""Places that root writes large files to: nobody else can put a link there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from util.foreign_user import AS_ROOT, MIB, NOBODY

from kmind.errors import KmindError
from kmind.util.files import create_file
from kmind.util.scratch import (
    create_scratch,
    finished_scratch,
    scratch_folder,
)
from kmind.workloads import fio


@AS_ROOT
def test_link_that_waits_under_the_name_of_the_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = scratch_folder(tmp_path / "bench")
    for name in ("read-1M.part", "read-1M.dat"):
        (folder / name).symlink_to(victim)
        path = fio.lay_out_file(folder, MIB)
        assert victim.read_bytes() == b"precious"
        assert not path.is_symlink()
        assert path.stat().st_size == MIB
        path.unlink()


@AS_ROOT
def test_complete_file_of_another_user_is_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "read-1M.dat"
    path.write_bytes(bytes(MIB))
    assert finished_scratch(path, MIB)
    assert not finished_scratch(path, MIB + 1)
    os.chown(path, NOBODY, NOBODY)
    assert not finished_scratch(path, MIB)


def test_new_file_is_private_and_replaces_what_had_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    other = tmp_path / "hard"
    os.link(path, other)
    for make in (create_scratch, create_file):
        fd = make(path)
        os.write(fd, b"after")
        os.close(fd)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (path.read_bytes(), other.read_bytes()) == (b"after", b"before")
    with pytest.raises(KmindError, match="cannot make"):
        create_scratch(tmp_path / ("x" * 300))
