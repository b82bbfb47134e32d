# SPDX-License-Identifier: Apache-2.0
"""The BTF reader against what clang and this kernel make, and against damaged input."""

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program

from kmind.abi.btf import KERNEL_BTF, Btf, Kind
from kmind.errors import KmindError

SOURCE = """
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
typedef unsigned int u32;
typedef unsigned long long u64;
enum color { RED = 1, BLUE = -2 };
enum huge { HUGE_ONE = 1ULL << 40 };
enum { NAMELESS = 7 } nameless;
struct inner { u32 a; char name[16]; };
typedef struct { u32 left, right; } pair_t;
struct sample {
    u64 ts;
    volatile u32 n;
    struct { u32 x; u32 y; };
    union { u64 whole; u32 half[2]; };
    struct inner in[3];
    enum color color;
    _Bool flag;
    const short level;
    void *pointer;
    signed char grid[2][3];
    pair_t pair;
    u64 tail[];
};
struct packed_bits { u32 low : 3; u32 high : 29; };
union number { u64 u; double f; };

struct sample *samples;
struct packed_bits *bits;
union number number;
enum huge huge;
const volatile u32 nr_cpus = 1;
const volatile u64 table[4] = {1, 2};
static const volatile int hidden = 3;

__attribute__((section("syscall"), used)) int run(void *ctx)
{
    return nameless + nr_cpus + table[2] + hidden + samples->n + bits->low + number.u + huge;
}
"""


@pytest.fixture(scope="session")
def object_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clang = program("clang-19")
    folder = tmp_path_factory.mktemp("btf")
    (folder / "types.bpf.c").write_text(SOURCE)
    command = [clang, "-g", "-O2", "-target", "bpf", "-mcpu=v3", "-c", "types.bpf.c"]
    subprocess.run([*command, "-o", "types.o"], cwd=folder, check=True)
    return folder / "types.o"


@pytest.fixture(scope="session")
def btf(object_path: Path) -> Btf:
    return Btf.from_elf(object_path)


def test_dtype_has_the_layout_of_c(btf: Btf) -> None:
    inner = np.dtype([("a", "<u4"), ("name", "S16")])
    assert btf.dtype("inner") == inner
    sample = btf.dtype("sample")
    assert sample.itemsize == 128
    expected: dict[str, tuple[Any, int]] = {
        "ts": ("<u8", 0),
        "n": ("<u4", 8),
        "x": ("<u4", 12),
        "y": ("<u4", 16),
        "whole": ("<u8", 24),
        "half": (("<u4", (2,)), 24),
        "in": ((inner, (3,)), 32),
        "color": ("<i4", 92),
        "flag": ("u1", 96),
        "level": ("<i2", 98),
        "pointer": ("<u8", 104),
        "grid": (("i1", (2, 3)), 112),
        "pair": ([("left", "<u4"), ("right", "<u4")], 120),
    }
    assert sample.names == tuple(expected)
    assert sample.fields is not None
    for name, (form, offset) in expected.items():
        assert sample.fields[name][:2] == (np.dtype(form), offset), name


def test_dtype_reads_bytes_as_c_wrote_them(btf: Btf) -> None:
    raw = struct.pack("<QIIIxxxxQ", 5, 6, 7, 8, 9 << 32 | 10).ljust(128, b"\0")
    row = np.frombuffer(raw, btf.dtype("sample"))[0]
    assert [row[n].item() for n in ("ts", "n", "x", "y")] == [5, 6, 7, 8]
    assert row["half"].tolist() == [10, 9]


def test_members_unions_and_bit_fields(btf: Btf) -> None:
    number = btf.struct("number")
    assert number.is_union
    assert [m.offset for m in number.members] == [0, 0]
    assert btf.dtype("number")["f"] == np.dtype("<f8")
    low, high = btf.struct("packed_bits").members
    assert (low.bits, high.bits, high.bit) == (3, 29, 3)
    with pytest.raises(KmindError, match="bit field"):
        btf.dtype("packed_bits")
    assert btf.struct("pair_t").size == 8
    assert btf.struct("sample").member("level").offset == 98
    with pytest.raises(KmindError, match="no member"):
        btf.struct("sample").member("absent")
    with pytest.raises(KmindError, match="no struct"):
        btf.struct("absent")
    assert {"sample", "inner", "number"} <= set(btf.structs)


def test_enums(btf: Btf) -> None:
    assert btf.enums["huge"] == {"HUGE_ONE": 1 << 40}
    assert btf.constants["NAMELESS"] == 7
    assert btf.kind_of(btf.struct("sample").member("color").type) is Kind.ENUM


def test_variables_lie_where_the_section_has_them(btf: Btf, object_path: Path) -> None:
    rodata = btf.sections[".rodata"]
    assert {n: (v.offset, v.size) for n, v in rodata.items()} == {
        "nr_cpus": (0, 4),
        "table": (8, 32),
        "hidden": (40, 4),
    }
    element, count = btf.array_of(rodata["table"].type)
    assert (btf.size_of(element), count, btf.is_signed(element)) == (8, 4, False)


def test_signed_enumerators() -> None:
    # One enum {MINUS = -2}, by hand: header, one type with one entry, strings.
    types = struct.pack("<IIIIi", 1, 1 << 31 | 6 << 24 | 1, 4, 3, -2)
    strings = b"\0e\0MINUS\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    assert Btf.from_raw(header + types + strings).enums == {"e": {"MINUS": -2}}


@pytest.mark.skipif(not KERNEL_BTF.exists(), reason="this kernel shows no BTF")
def test_kernel_btf_knows_tracepoints() -> None:
    kernel = Btf.kernel()
    assert kernel.tracepoint_args("block_rq_issue") == 1
    assert kernel.tracepoint_args("sched_switch") == 4
    assert kernel.tracepoint_args("no_such_tracepoint") is None
    assert kernel.struct("task_struct").member("pid").size == 4
    assert Btf.kernel() is kernel


def ask_everything(btf: Btf) -> None:
    """Ask each question once; each must answer or raise KmindError, on its own."""
    names = ("sample", "number", "packed_bits", "pair_t", "x")
    questions: list[Callable[[], object]] = [partial(btf.dtype, name) for name in names]
    questions += [partial(getattr, btf, what) for what in ("enums", "constants", "sections")]
    questions += [partial(btf.tracepoint_args, "x")]
    for question in questions:
        with contextlib.suppress(KmindError):
            question()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bytes_raise_only_our_errors(object_path: Path, data: st.DataObject) -> None:
    blob = bytearray(object_path.read_bytes())
    start = blob.find(b"\x9f\xeb")
    whole_file = data.draw(st.booleans())
    span = st.integers(0 if whole_file else start, len(blob) - 1 if whole_file else start + 2000)
    for at, value in data.draw(st.lists(st.tuples(span, st.integers(0, 255)), max_size=8)):
        blob[min(at, len(blob) - 1)] = value
    try:
        btf = Btf.from_elf_bytes(bytes(blob))
    except KmindError:
        return
    ask_everything(btf)


@settings(max_examples=200, deadline=None)
@given(part=st.floats(0, 1))
def test_cut_files_raise_only_our_errors(object_path: Path, part: float) -> None:
    blob = object_path.read_bytes()
    with pytest.raises(KmindError):
        Btf.from_elf_bytes(blob[: int(part * (len(blob) - 1))])
    start = blob.find(b"\x9f\xeb")
    size = 24 + sum(struct.unpack_from("<II", blob, start + 16))
    with pytest.raises(KmindError):
        Btf.from_raw(blob[start : start + int(part * (size - 1))])


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.integers(0, (1 << 32) - 1), max_size=40))
def test_made_up_types_raise_only_our_errors(words: list[int]) -> None:
    kinds = [1, 2, 3, 4, 5, 6, 8, 14, 15, 19]
    types = b"".join(
        struct.pack("<III", w & 7, kinds[w % 10] << 24 | w >> 8 & 3, w >> 16 & 15) for w in words
    )
    strings = b"\0sample\0x\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    try:
        btf = Btf.from_raw(header + types + strings)
    except KmindError:
        return
    ask_everything(btf)


def test_nested_doubling_does_not_explode() -> None:
    # Each struct holds the one before it twice: without a memory this takes 2**24 steps.
    depth = 24
    rows = [struct.pack("<IIII", 1, 1 << 24, 1, 8)]
    for level in range(depth):
        members = struct.pack("<IIIIII", 1, level + 1, 0, 3, level + 1, 8 << level)
        rows.append(struct.pack("<III", 1, 4 << 24 | 2, 2 << level) + members)
    rows.append(struct.pack("<III", 5, 8 << 24, depth + 1))
    types, strings = b"".join(rows), b"\0x\0y\0top\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    assert Btf.from_raw(header + types + strings).dtype("top").itemsize == 1 << depth


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("plain text, long enough to hold a header of an ELF file" * 3)
    with pytest.raises(KmindError, match="not a little-endian ELF64 file"):
        Btf.from_elf(tmp_path / "text")
    with pytest.raises(KmindError, match="cannot read"):
        Btf.from_elf(tmp_path / "absent")
    with pytest.raises(KmindError, match="holds no BTF"):
        Btf.from_elf(shutil.which("true") or "/bin/true")
