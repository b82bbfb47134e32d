# SPDX-License-Identifier: Apache-2.0
"""The ELF reader: an object of this project, and files that were cut or changed."""

import contextlib

import pytest
from agents import compile_bpf
from hypothesis import given
from hypothesis import strategies as st

from kmind.abi.elf import read_relocations, read_sections, read_symbols, string_at
from kmind.errors import KmindError

SOURCE = """
#include <linux/bpf.h>
#define SEC(name) __attribute__((section(name), used))
int counter;
SEC("socket") int count(void *context) { counter++; return !context; }
char licence[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("elf")
    (folder / "one.bpf.c").write_text(SOURCE)
    return compile_bpf(folder / "one.bpf.c", folder / "one.bpf.o").read_bytes()


def read_all(data: bytes) -> None:
    sections = read_sections(memoryview(data), "one.bpf.o")
    read_relocations(sections, read_symbols(sections, "one.bpf.o"), "one.bpf.o")


def test_sections_symbols_and_relocations_of_an_object(compiled: bytes) -> None:
    sections = read_sections(memoryview(compiled), "one.bpf.o")
    by_name = {section.name: section for section in sections}
    assert bytes(by_name["license"].data) == b"GPL\0"
    assert by_name["socket"].has_code
    assert not by_name["license"].has_code
    assert (by_name[".bss"].size, len(by_name[".bss"].data)) == (4, 0)
    symbols = read_symbols(sections, "one.bpf.o")
    counter = next(symbol for symbol in symbols if symbol.name == "counter")
    assert (counter.section, counter.offset, counter.size) == (by_name[".bss"].number, 0, 4)
    code = by_name["socket"].number
    used = [each for each in read_relocations(sections, symbols, "one.bpf.o")
            if each.section == code]  # fmt: skip
    assert {each.symbol.section for each in used} == {by_name[".bss"].number}
    assert all(0 <= each.offset < by_name["socket"].size for each in used)


def test_cut_anywhere_is_one_line(compiled: bytes) -> None:
    for size in range(0, len(compiled), 7):
        with pytest.raises(KmindError, match=r"one\.bpf\.o is "):
            read_all(compiled[:size])


@given(st.data())
def test_changed_anywhere_is_read_or_refused(compiled: bytes, data: st.DataObject) -> None:
    changed = bytearray(compiled)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(KmindError):
        read_all(bytes(changed))


@pytest.mark.parametrize(
    ("strings", "offset"), [(b"", 0), (b"abc", 0), (b"abc\0", 4), (b"\xff\0", 0)]
)
def test_name_that_is_none(strings: bytes, offset: int) -> None:
    with pytest.raises(KmindError, match=f"no name at byte {offset}"):
        string_at(memoryview(strings), offset, "one.bpf.o")


def test_long_name() -> None:
    name = "n" * 300
    assert string_at(memoryview(name.encode() + b"\0"), 0, "one.bpf.o") == name
