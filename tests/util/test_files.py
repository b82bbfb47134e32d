# SPDX-License-Identifier: Apache-2.0
"""Folders and files that nobody but their owner can change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from util.foreign_user import AS_ROOT, MIB, NOBODY

from kmind.errors import KmindError
from kmind.util.files import replace_file
from kmind.util.scratch import (
    scratch_folder,
)
from kmind.workloads import fio


def test_scratch_folder_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = scratch_folder(tmp_path / "deep/er")
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.stat().st_mode) == 0o711
    assert not (tmp_path / "deep").stat().st_mode & 0o022


@AS_ROOT
def test_scratch_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "kmind-bench"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(KmindError, match=r"kmind-bench: it belongs to user 65534; delete it"):
        scratch_folder(theirs)


@AS_ROOT
def test_scratch_folder_that_others_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for mode in (0o777, 0o775, 0o1777):
        shared.chmod(mode)
        with pytest.raises(KmindError, match="can be written to by"):
            scratch_folder(shared)
    with pytest.raises(KmindError, match="1777"):
        fio.lay_out_file(shared, MIB)
    assert list(shared.iterdir()) == []


@AS_ROOT
def test_scratch_folder_below_another_users_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    ours = scratch_folder(theirs / "ours")
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(KmindError, match=r"theirs belongs to user 65534"):
        scratch_folder(ours)
    os.chown(theirs, 0, 0)
    theirs.chmod(0o1777)  # as /tmp is: what is ours there cannot be replaced
    assert scratch_folder(ours) == ours


def test_file_is_replaced_whole_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "folder/state.json"
    replace_file(path, b"first", durable=False)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with path.open("rb") as reader:
        replace_file(path, b"second", durable=True)
        assert reader.read() == b"first"
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


def test_replacing_follows_no_link_and_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path, other = tmp_path / "state.json", tmp_path / "other"
    other.write_bytes(b"theirs")
    path.with_suffix(".new").symlink_to(other)
    replace_file(path, b"mine", durable=False)
    assert (path.read_bytes(), other.read_bytes()) == (b"mine", b"theirs")
    taken = tmp_path / "taken"
    (taken / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        replace_file(taken, b"mine", durable=False)
    assert (taken / "inner").is_dir()
    assert not taken.with_suffix(".new").exists()
