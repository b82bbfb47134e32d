# SPDX-License-Identifier: Apache-2.0
"""A tree of one file, asked as the kernel asks, and in ways it never would."""

import errno
import stat

import numpy as np
import pytest

from kmind.driver.fuse.protocol import ATTR_OUT, ENTRY_OUT, STATFS_OUT, Opcode
from kmind.driver.fuse.tree import FILE, FILE_NODE, Refused, Tree

ROOT = 1
TREE = Tree(1 << 20)


def refusal(opcode: int, node: int, body: bytes = b"") -> int:
    with pytest.raises(Refused) as caught:
        TREE.answer(opcode, node, body)
    return caught.value.errno


def test_the_file_is_found_and_described() -> None:
    entry = np.frombuffer(TREE.answer(Opcode.LOOKUP, ROOT, FILE.encode() + b"\0"), ENTRY_OUT)[0]
    assert entry["nodeid"] == FILE_NODE
    answer = np.frombuffer(TREE.answer(Opcode.GETATTR, FILE_NODE, b""), ATTR_OUT)[0]
    assert answer["attr"] == entry["attr"]
    assert entry["attr"]["size"] == 1 << 20
    assert stat.S_ISREG(int(entry["attr"]["mode"]))


def test_answers_are_as_long_as_the_kernels_structs() -> None:
    assert (ENTRY_OUT.itemsize, ATTR_OUT.itemsize, STATFS_OUT.itemsize) == (128, 104, 80)


@pytest.mark.parametrize("name", [b"", b"\0", b"disk2\0", b"..\0", b"\xff" * 4096])
def test_other_names_are_not_there(name: bytes) -> None:
    assert refusal(Opcode.LOOKUP, ROOT, name) == errno.ENOENT


def test_what_is_not_served_is_refused() -> None:
    assert refusal(Opcode.SETATTR, FILE_NODE) == errno.EPERM
    assert refusal(Opcode.INTERRUPT, 0) == errno.ENOSYS
    assert refusal(4711, ROOT) == errno.ENOSYS
    assert refusal(Opcode.GETATTR, 99) == errno.ESTALE
    assert refusal(Opcode.LOOKUP, FILE_NODE, b"disk\0") == errno.ENOTDIR
    assert refusal(Opcode.READDIR, FILE_NODE) == errno.ENOTDIR


def test_the_folder_lists_one_file_once() -> None:
    assert TREE.answer(Opcode.READDIR, ROOT, b"") == b""
    listed = TREE.answer(Opcode.READDIR, ROOT, bytes(40))
    assert listed[24:28] == b"disk"
    assert TREE.answer(Opcode.READDIR, ROOT, bytes(8) + b"\1" + bytes(31)) == b""
