# SPDX-License-Identifier: Apache-2.0
"""Records are laid out as the kernel's header says, by the C compiler's word."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from kmind.driver.fuse import protocol

_STRUCTS = {
    "fuse_in_header": 40,
    "fuse_out_header": protocol.OUT_HEADER.itemsize,
    "fuse_init_out": protocol.INIT_OUT.itemsize,
    "fuse_attr_out": protocol.ATTR_OUT.itemsize,
    "fuse_entry_out": protocol.ENTRY_OUT.itemsize,
    "fuse_open_out": protocol.OPEN_OUT.itemsize,
    "fuse_statfs_out": protocol.STATFS_OUT.itemsize,
    "fuse_write_out": 8,
    "fuse_read_in": protocol.REQUEST.itemsize - 40,
    "fuse_write_in": protocol.REQUEST.itemsize - 40,
}


def at(record: np.dtype[np.void], *path: str) -> int:
    """The offset of a field in a record."""
    offset = 0
    for name in path:
        assert record.fields is not None
        record, more = record.fields[name][:2]
        offset += more
    return offset


_FIELDS = {
    ("fuse_in_header", "unique"): at(protocol.REQUEST, "unique"),
    ("fuse_in_header", "nodeid"): at(protocol.REQUEST, "nodeid"),
    ("fuse_write_in", "offset"): at(protocol.REQUEST, "offset") - 40,
    ("fuse_read_in", "size"): at(protocol.REQUEST, "size") - 40,
    ("fuse_fallocate_in", "length"): at(protocol.FALLOCATE, "length") - 40,
    ("fuse_fallocate_in", "mode"): at(protocol.FALLOCATE, "mode") - 40,
    ("fuse_out_header", "error"): at(protocol.OUT_HEADER, "error"),
    ("fuse_init_in", "flags"): at(protocol.INIT_IN, "flags"),
    ("fuse_init_out", "max_write"): at(protocol.INIT_OUT, "max_write"),
    ("fuse_init_out", "max_pages"): at(protocol.INIT_OUT, "max_pages"),
    ("fuse_attr_out", "attr"): at(protocol.ATTR_OUT, "attr"),
    ("fuse_attr_out", "attr.mode"): at(protocol.ATTR_OUT, "attr", "mode"),
    ("fuse_entry_out", "attr.size"): at(protocol.ENTRY_OUT, "attr", "size"),
    ("fuse_statfs_out", "st.bsize"): at(protocol.STATFS_OUT, "bsize"),
    ("fuse_statfs_out", "st.namelen"): at(protocol.STATFS_OUT, "namelen"),
}


@pytest.mark.needs("cc")
def test_records_are_the_kernels(tmp_path: Path) -> None:
    sizes = [
        f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");'
        for name, size in _STRUCTS.items()
    ]
    offsets = [
        f'_Static_assert(offsetof(struct {name}, {field}) == {offset}, "{name}.{field}");'
        for (name, field), offset in _FIELDS.items()
    ]
    codes = [
        f'_Static_assert(FUSE_{code.name} == {code.value}, "{code.name}");'
        for code in (*protocol.Opcode, *protocol.InitFlag)
    ]
    source = tmp_path / "check.c"
    lines = ["#include <stddef.h>", "#include <linux/fuse.h>", *sizes, *offsets, *codes]
    source.write_text("\n".join(lines) + "\n")
    command = ["cc", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
