# SPDX-License-Identifier: Apache-2.0
"""A thin typed binding to the system's libbpf, and probes of what a kernel can do.

libbpf.so.1 of version 1.1 or later is loaded at the first call. Every failure is an
exception of `kmind.errors` with the kernel's words; nothing is printed.
"""

from kmind.bpf.arena import Arena, map_arena
from kmind.bpf.map import (
    MAP_TYPE_ARENA,
    MAP_TYPE_ARRAY,
    MAP_TYPE_RINGBUF,
    Map,
    obj_get,
    obj_pin,
    open_map,
)
from kmind.bpf.object import BpfObject
from kmind.bpf.pinned import PinnedProgram, let_go, open_program
from kmind.bpf.program import Link, Program, RunResult, open_link, read_iter
from kmind.bpf.ringbuf import RingBuffer

__all__ = [
    "MAP_TYPE_ARENA",
    "MAP_TYPE_ARRAY",
    "MAP_TYPE_RINGBUF",
    "Arena",
    "BpfObject",
    "Link",
    "Map",
    "PinnedProgram",
    "Program",
    "RingBuffer",
    "RunResult",
    "let_go",
    "map_arena",
    "obj_get",
    "obj_pin",
    "open_link",
    "open_map",
    "open_program",
    "read_iter",
]
