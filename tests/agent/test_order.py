# SPDX-License-Identifier: Apache-2.0
"""The agent's orderings compiled for arm64, where loads and stores do not stay in order."""

import struct
from pathlib import Path

import pytest
from agents import compile_bpf

from kmind.abi.elf import read_sections

ORDERS = {
    "publish": "ARENA_RELEASE(word, 1)",
    "publish_wide": "ARENA_RELEASE(wide, 1)",
    "fence": "KM_ACQUIRE_FENCE()",
}
SOURCE = """\
#include <kmind/arena.h>
__u32 word;
__u64 wide;
int run(void)
{{
	{};
	return 0;
}}
"""


@pytest.mark.parametrize("name", ORDERS)
def test_each_ordering_is_an_atomic_that_fetches(tmp_path: Path, name: str) -> None:
    """Only those are ordered: an addition that fetches nothing is not.

    Codes and bits: include/uapi/linux/bpf.h (BPF_STX, BPF_ATOMIC, BPF_FETCH).
    """
    source = tmp_path / "order.bpf.c"
    source.write_text(SOURCE.format(ORDERS[name]))
    arm64 = ("-U__TARGET_ARCH_x86", "-D__TARGET_ARCH_arm64")
    target = compile_bpf(source, tmp_path / "order.bpf.o", *arm64)
    sections = read_sections(memoryview(target.read_bytes()), "order.bpf.o")
    (code,) = (section.data for section in sections if section.has_code and section.size)
    atomics = [imm for op, _, _, imm in struct.iter_unpack("<BBhi", code) if op & 0xE7 == 0xC3]
    assert len(atomics) == 1
    assert atomics[0] & 1
