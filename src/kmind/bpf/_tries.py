# SPDX-License-Identifier: Apache-2.0
"""The tries of `kmind.bpf.probe` that need the kernel's BPF.

Each does a small thing for real, and undoes it. It returns what it found, in a few words
or none. It raises NotSupportedError or BpfError if the thing is not there,
PrivilegeError if the kernel refuses it. Constants are those of the kernel's
uapi/linux/bpf.h and perf_event.h.
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from kmind.abi.btf import Btf, Kind
from kmind.bpf import _libbpf, machine
from kmind.bpf import _syscall as raw
from kmind.bpf._errors import strerror
from kmind.bpf.object import BpfObject
from kmind.errors import BpfError, LoadError, NotSupportedError, PrivilegeError

__all__ = [
    "arena",
    "arena_atomics",
    "array_mmap",
    "bpf_timer",
    "fentry",
    "iterator",
    "kprobe",
    "loads",
    "lsm",
    "map_iterator",
    "perf_event",
    "raw_tp",
    "ringbuf",
    "struct_ops",
    "syscall",
    "tp_btf",
    "tracepoint",
]

_MAP_ARRAY, _MAP_STRUCT_OPS, _MAP_RINGBUF, _MAP_ARENA = 2, 26, 27, 33
_MMAPABLE, _LINK = 1 << 10, 1 << 13
_KPROBE, _TRACEPOINT, _PERF_EVENT, _RAW_TP = 2, 5, 7, 17
_TRACING, _STRUCT_OPS, _LSM, _SYSCALL = 26, 27, 29, 31
_AT_RAW_TP, _AT_FENTRY, _AT_LSM, _AT_ITER, _AT_PERF = 23, 24, 27, 28, 41
_SLEEPABLE = 1 << 4
_PERF_TYPE_SOFTWARE, _PERF_TYPE_TRACEPOINT = 1, 2
_PERF_DUMMY = 9

# Fires only when the kernel kills a process for want of memory.
_QUIET_TRACEPOINT = ("oom", "mark_victim")
_QUIET_FUNCTION = "bpf_fentry_test1"
_NOWHERE = 0x7B00_0000_0000  # an arena's address; the probes do not map it


@contextlib.contextmanager
def _needs(what: str) -> Iterator[None]:
    # The kernel's "invalid argument" to a thing that it does not know tells people nothing.
    try:
        yield
    except BpfError as error:
        raise NotSupportedError(f"no {what}: {error.args[0]}") from None


# Maps.


def ringbuf() -> str:
    """BPF_MAP_TYPE_RINGBUF (Linux 5.8)."""
    with _needs("ring buffers (Linux 5.8)"):
        os.close(raw.map_create(_MAP_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE")))
    return ""


def array_mmap() -> str:
    """An array map that a process maps (Linux 5.5)."""
    size = os.sysconf("SC_PAGE_SIZE")
    with (
        _needs("arrays that processes can map (Linux 5.5)"),
        raw.owned(raw.map_create(_MAP_ARRAY, 4, size, 1, flags=_MMAPABLE)) as array,
        mmap.mmap(array, size, mmap.MAP_SHARED) as memory,
    ):
        memory[:1] = b"k"
    return ""


def arena() -> str:
    """BPF_MAP_TYPE_ARENA (Linux 6.9)."""
    with _needs("arenas (Linux 6.9)"):
        os.close(raw.map_create(_MAP_ARENA, 0, 0, 1, flags=_MMAPABLE, extra=_NOWHERE))
    return ""


def arena_atomics() -> str:
    """An atomic addition to arena memory."""
    with (
        _needs("atomic operations in arenas (Linux 6.10)"),
        raw.owned(raw.map_create(_MAP_ARENA, 0, 0, 1, flags=_MMAPABLE, extra=_NOWHERE)) as arena_fd,
    ):
        code = raw.load_map(1, arena_fd) + raw.load_imm64(2, _NOWHERE)
        code += raw.insn(0xBF, 2, 2, off=1, imm=1)  # r2 = (kernel's) r2, by addr_space_cast
        code += raw.insn(0xB7, 3, imm=1)
        code += raw.insn(0xDB, 2, 3, imm=0x01)  # r3 = atomic_fetch_add(r2, r3)
        with raw.owned(_load_syscall(code + raw.returns(0))) as prog:
            raw.test_run(prog)
    return ""


# Program types.


def loads(type: int, attach_type: int = 0) -> str:
    """A program of that type loads; returning 1 means "go on" to all that are asked."""
    os.close(raw.prog_load(type, raw.returns(1), attach_type=attach_type))
    return ""


def syscall() -> str:
    """A program that user space runs."""
    with raw.owned(_load_syscall(raw.returns(42))) as prog:
        if raw.test_run(prog) != 42:
            raise BpfError("a program ran, but its result is wrong")
    return ""


def tp_btf() -> str:
    """A typed tracepoint program."""
    name = f"btf_trace_{_QUIET_TRACEPOINT[1]}"
    with raw.owned(_load_tracing(_AT_RAW_TP, name, Kind.TYPEDEF)) as prog:
        os.close(raw.raw_tracepoint_open(prog))
    return ""


def raw_tp() -> str:
    """An untyped tracepoint program."""
    with raw.owned(raw.prog_load(_RAW_TP, raw.returns(0))) as prog:
        os.close(raw.raw_tracepoint_open(prog, _QUIET_TRACEPOINT[1]))
    return ""


def tracepoint() -> str:
    """A program on a tracepoint's perf event."""
    place = machine.mounted("tracefs", "/sys/kernel/tracing")
    path = Path(place, "events", *_QUIET_TRACEPOINT, "id")
    try:
        number = int(path.read_text())
    except PermissionError:
        raise PrivilegeError(f"cannot read {path}") from None
    except OSError as error:
        raise NotSupportedError(f"cannot read {path}: {error.strerror}") from None
    return _on_perf_event(_TRACEPOINT, _PERF_TYPE_TRACEPOINT, number)


def perf_event() -> str:
    """A program on a software perf event."""
    return _on_perf_event(_PERF_EVENT, _PERF_TYPE_SOFTWARE, _PERF_DUMMY, period=1 << 30)


def kprobe() -> str:
    """A program on a kernel function, by a breakpoint."""
    path = Path("/sys/bus/event_source/devices/kprobe/type")
    if not path.exists():
        raise NotSupportedError("this kernel has no kprobes")
    return _on_perf_event(_KPROBE, int(path.read_text()), 0, name=_QUIET_FUNCTION)


def iterator(name: str) -> str:
    """An iterator, run once for nothing."""
    with (
        raw.owned(_load_tracing(_AT_ITER, f"bpf_iter_{name}", Kind.FUNC)) as prog,
        raw.owned(raw.link_create(prog, 0, _AT_ITER)) as link,
        raw.owned(raw.iter_create(link)) as output,
    ):
        os.read(output, 1)
    return ""


def map_iterator() -> str:
    """An iterator over the elements of a map, run once over an empty one."""
    with (
        raw.owned(raw.map_create(_MAP_ARRAY, 4, 8, 1)) as over,
        raw.owned(_load_tracing(_AT_ITER, "bpf_iter_bpf_map_elem", Kind.FUNC)) as prog,
        raw.owned(raw.link_create(prog, 0, _AT_ITER, over=over)) as link,
        raw.owned(raw.iter_create(link)) as output,
    ):
        os.read(output, 1)
    return ""


def fentry() -> str:
    """A program at a kernel function's entry, by a trampoline."""
    with raw.owned(_load_tracing(_AT_FENTRY, _QUIET_FUNCTION, Kind.FUNC)) as prog:
        os.close(raw.raw_tracepoint_open(prog))
    return ""


def lsm() -> str:
    """A program on a security hook loads, and would be asked."""
    number = _kernel_id("bpf_lsm_file_open", Kind.FUNC)
    os.close(raw.prog_load(_LSM, raw.returns(0), attach_type=_AT_LSM, attach_btf_id=number))
    return machine.active_lsm("bpf")


def struct_ops() -> str:
    """Programs that are the methods of a kernel structure, here a congestion control.

    It is made ready, trampolines and all, but not registered: once by hand, to know the
    kernel's part, and once by libbpf, as a module's would be.
    """
    _kernel_struct_ops()
    try:
        with BpfObject(Path(__file__).with_name("struct_ops.bpf.o")) as one:
            one.load()
    except (LoadError, NotSupportedError) as error:
        version = ".".join(map(str, _libbpf.version()))
        raise NotSupportedError(
            f"this kernel takes one, but libbpf {version} cannot load it: {error.args[0]}",
            hint="install libbpf 1.2 or later",
        ) from None
    return ""


def _kernel_struct_ops() -> None:
    kernel = Btf.kernel()
    value_id = _kernel_id("bpf_struct_ops_tcp_congestion_ops", Kind.STRUCT)
    value = kernel.struct_of(value_id)
    type_id = kernel.resolve(value.member("data").type)
    members = kernel.struct_of(type_id).members
    data = bytearray(value.size)
    start = value.member("data").offset
    with contextlib.ExitStack() as stack:
        # The kernel asks for these three.
        for method in ("ssthresh", "cong_avoid", "undo_cwnd"):
            index = next(i for i, m in enumerate(members) if m.name == method)
            prog = raw.prog_load(
                _STRUCT_OPS, raw.returns(0), attach_type=index, attach_btf_id=type_id
            )
            stack.enter_context(raw.owned(prog))
            struct.pack_into("<Q", data, start + members[index].offset, prog)
        name = next(m for m in members if m.name == "name")
        struct.pack_into("<11s", data, start + name.offset, b"kmind_probe")
        types = stack.enter_context(raw.owned(raw.btf_load(_timer_btf())))
        with _needs("struct_ops that a link registers (Linux 6.4)"):
            ops = raw.map_create(
                _MAP_STRUCT_OPS, 4, value.size, 1, flags=_LINK, btf=(types, 0, 0, value_id)
            )
        stack.enter_context(raw.owned(ops))
        raw.map_update(ops, bytes(4), bytes(data))


def bpf_timer() -> str:
    """A syscall program that starts a kernel timer."""
    with (
        raw.owned(raw.btf_load(_timer_btf())) as types,
        raw.owned(raw.map_create(_MAP_ARRAY, 4, 16, 1, btf=(types, 1, 4, 0))) as timers,
    ):
        code = _timer_code(timers)
        callback = len(code) // 8
        functions = [(0, 6), (callback, 8)]
        with raw.owned(_load_syscall(code + raw.returns(0), types, functions)) as prog:
            result = raw.test_run(prog)
    if result:
        raise BpfError(f"the kernel started no timer: {strerror(result)}")
    return ""


def _on_perf_event(
    type: int, event_type: int, config: int, *, name: str = "", period: int = 0
) -> str:
    with (
        raw.owned(raw.prog_load(type, raw.returns(0))) as prog,
        raw.owned(raw.perf_event_open(event_type, config, name=name, period=period)) as event,
    ):
        os.close(raw.link_create(prog, event, _AT_PERF))
    return ""


def _load_syscall(
    code: bytes, btf_fd: int = 0, func_info: list[tuple[int, int]] | None = None
) -> int:
    return raw.prog_load(_SYSCALL, code, flags=_SLEEPABLE, btf_fd=btf_fd, func_info=func_info or [])


def _load_tracing(attach_type: int, name: str, kind: Kind) -> int:
    number = _kernel_id(name, kind)
    return raw.prog_load(_TRACING, raw.returns(0), attach_type=attach_type, attach_btf_id=number)


def _kernel_id(name: str, kind: Kind) -> int:
    number = Btf.kernel().find(name, kind)
    if number is None:
        raise NotSupportedError(f"this kernel has no {name}")
    return number


def _timer_code(timers: int) -> bytes:
    # The callback is to stand right after it.
    code = raw.insn(0x62, 10, off=-4)  # key = 0
    code += raw.insn(0xBF, 2, 10) + raw.insn(0x07, 2, imm=-4)
    code += raw.load_map(1, timers) + raw.call(1)  # r0 = lookup(timers, &key)
    code += raw.insn(0x55, 0, off=2) + raw.returns(-1)  # there always; the verifier asks
    code += raw.insn(0xBF, 6, 0)
    code += raw.load_map(2, timers) + raw.insn(0xB7, 3, imm=1)  # CLOCK_MONOTONIC
    code += raw.insn(0xBF, 1, 6) + raw.call(169)  # bpf_timer_init
    rest = raw.insn(0xBF, 1, 6) + raw.call(170)  # bpf_timer_set_callback
    rest += raw.insn(0xBF, 1, 6) + raw.insn(0xB7, 2, imm=10**9) + raw.insn(0xB7, 3)
    rest += raw.call(171) + raw.insn(0x95)  # return bpf_timer_start in a second
    # r2 = the callback (BPF_PSEUDO_FUNC), as a distance from the next instruction
    return code + raw.load_imm64(2, len(rest) // 8 + 1, src=4) + rest


def _timer_btf() -> bytes:
    # 1 int, 2 u64, 3 struct bpf_timer {u64 a, b}, 4 struct v {bpf_timer t},
    # 5 int (*)(void), 6 that one as "run", 7 int (*)(int, int, int), 8 as static "tick".
    names = ["", "int", "u64", "bpf_timer", "a", "b", "v", "t", "run", "tick"]
    at = {name: sum(len(n) + 1 for n in names[:i]) for i, name in enumerate(names)}

    def row(name: str, kind: Kind, vlen: int, size: int, *extra: int) -> bytes:
        words = (at[name], kind << 24 | vlen, size, *extra)
        return struct.pack(f"<{len(words)}I", *words)

    types = row("int", Kind.INT, 0, 4, 1 << 24 | 32)
    types += row("u64", Kind.INT, 0, 8, 64)
    types += row("bpf_timer", Kind.STRUCT, 2, 16, at["a"], 2, 0, at["b"], 2, 64)
    types += row("v", Kind.STRUCT, 1, 16, at["t"], 3, 0)
    types += row("", Kind.FUNC_PROTO, 0, 1)
    types += row("run", Kind.FUNC, 1, 5)  # vlen of a function is its linkage: 1 global
    types += row("", Kind.FUNC_PROTO, 3, 1, *(at["a"], 1) * 3)
    types += row("tick", Kind.FUNC, 0, 7)
    strings = b"".join(name.encode() + b"\0" for name in names)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings
