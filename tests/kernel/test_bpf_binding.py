# SPDX-License-Identifier: Apache-2.0
"""The libbpf binding against the real kernel."""

import ctypes
import mmap
import os
import re
import subprocess
import sys
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import program

from kmind.bpf import (
    BpfObject,
    Link,
    RingBuffer,
    map_arena,
    obj_get,
    open_link,
    open_map,
    read_iter,
)
from kmind.bpf.probe import probe
from kmind.errors import BpfError, KmindError, LoadError, NotSupportedError, PrivilegeError

SOURCES = Path(__file__).resolve().parent.parent / "bpf"
ADDRESS = 0x7A00_0000_0000
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled programs of tests/bpf."""
    clang = program("clang-19")
    folder = tmp_path_factory.mktemp("objects")
    machine = {"x86_64": "x86", "aarch64": "arm64"}[os.uname().machine]
    flags = ["-g", "-O2", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"]
    flags += [f"-D__TARGET_ARCH_{machine}", f"-I/usr/include/{os.uname().machine}-linux-gnu"]
    for source in SOURCES.glob("*.bpf.c"):
        target = folder / source.name.replace(".c", ".o")
        subprocess.run([clang, *flags, "-c", source, "-o", target], check=True)
    return folder


@pytest.fixture
def pins() -> Iterator[Path]:
    """An empty folder in bpffs."""
    folder = Path("/sys/fs/bpf") / f"kmind-test-{uuid.uuid4().hex}"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def calls(objects: Path) -> Iterator[BpfObject]:
    with BpfObject(objects / "calls.bpf.o") as obj:
        yield obj


def u32(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def u64(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


@pytest.mark.kernel("syscall")
def test_syscall_program_sees_its_variables(calls: BpfObject) -> None:
    calls.set_rodata(
        {"factor": 3, "offsets": [1, 2, 3, -4], "label": b"hi", "pair": bytes(4) + b"\5"}
    )
    calls.load()
    run = calls.programs["multiply"].test_run(u64(5) + bytes(16))
    assert run.retval == -7
    assert run.ctx == u64(5) + u64(5 * 3 - 4 + 5) + b"hi".ljust(8, b"\0")
    assert calls.programs["multiply"].section == "syscall"


@pytest.mark.kernel("syscall")
def test_variables_keep_what_the_source_says_unless_set(calls: BpfObject) -> None:
    calls.load()
    run = calls.programs["multiply"].test_run(u64(5) + bytes(16))
    assert run.ctx == u64(5) + u64(5 * 1 + 4) + b"none".ljust(8, b"\0")


@pytest.mark.kernel("syscall")
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("absent", 1, "no read-only variable absent"),
        ("factor", 1 << 32, "does not fit"),
        ("factor", -1, "does not fit"),
        ("factor", [1, 2], "do not fit"),
        ("offsets", 1, "does not take 1"),
        ("offsets", [1 << 15], "does not fit"),
        ("offsets", [0] * 5, "do not fit"),
        ("label", b"123456789", "do not fit"),
        ("pair", 1, "does not take 1"),
    ],
)
def test_wrong_variables_are_refused(
    calls: BpfObject, name: str, value: int | bytes | list[int], complaint: str
) -> None:
    with pytest.raises(BpfError, match=complaint):
        calls.set_rodata({name: value})


@pytest.mark.kernel("syscall")
def test_test_run_of_a_program_that_repeats(calls: BpfObject) -> None:
    calls.load()
    with pytest.raises(BpfError, match="cannot run program multiply: Invalid argument"):
        calls.programs["multiply"].test_run(bytes(24), repeat=2)


@pytest.mark.kernel("syscall")
def test_maps(calls: BpfObject) -> None:
    seen = calls.maps["seen"]
    with pytest.raises(BpfError, match="before its object is loaded"):
        _ = seen.fd
    seen.set_max_entries(2)
    calls.load()
    assert (seen.type, seen.key_size, seen.value_size, seen.max_entries) == (1, 4, 8, 2)
    assert seen.lookup(u32(1)) is None
    seen.update(u32(1), u64(10))
    seen.update(u32(2), u64(20))
    assert sorted(seen.keys()) == [u32(1), u32(2)]
    assert seen.lookup(u32(2)) == u64(20)
    with pytest.raises(BpfError, match="Argument list too long"):
        seen.update(u32(3), u64(30))
    with pytest.raises(BpfError, match="File exists"):
        seen.update(u32(2), u64(30), flags=1)
    assert (seen.delete(u32(1)), seen.delete(u32(1))) == (True, False)
    assert list(seen.keys()) == [u32(2)]
    with pytest.raises(BpfError, match="takes a key of 4 bytes, not of 3"):
        seen.lookup(b"123")
    with pytest.raises(BpfError, match="takes a value of 8 bytes, not of 4"):
        seen.update(u32(1), u32(1))


@pytest.mark.kernel("syscall")
def test_per_cpu_values_cover_all_cpus(calls: BpfObject) -> None:
    calls.load()
    calls.programs["multiply"].test_run(bytes(24))
    value = calls.maps["per_cpu"].lookup(u32(0))
    assert value is not None
    counts = [int.from_bytes(value[i : i + 4], sys.byteorder) for i in range(0, len(value), 8)]
    assert sum(counts) == 1
    assert len(counts) >= os.cpu_count()  # type: ignore[operator]


@pytest.mark.kernel("syscall", "ringbuf")
def test_ring_buffer(calls: BpfObject) -> None:
    calls.load()
    multiply = calls.programs["multiply"]
    records: list[bytes] = []
    with RingBuffer(calls.maps["ring"].fd, records.append) as ring:
        assert ring.poll(0) == 0
        for number in range(3):
            multiply.test_run(u64(number) + bytes(16))
        assert ring.poll(1000) == 3
        assert records == [u64(0), u64(1), u64(2)]
        multiply.test_run(u64(9) + bytes(16))
        assert ring.consume() == 1
        assert ring.fd > 2
    with pytest.raises(BpfError, match="closed"):
        ring.poll(0)


@pytest.mark.kernel("syscall", "ringbuf")
def test_ring_buffer_raises_what_its_callback_raises(calls: BpfObject) -> None:
    calls.load()
    records: list[bytes] = []

    def once(record: bytes) -> None:
        records.append(record)
        if len(records) == 1:
            raise ZeroDivisionError

    for number in range(2):
        calls.programs["multiply"].test_run(u64(number) + bytes(16))
    with RingBuffer(calls.maps["ring"].fd, once) as ring:
        with pytest.raises(ZeroDivisionError):
            ring.poll(1000)
        ring.consume()
    assert records[-1] == u64(1)


@pytest.mark.kernel("syscall", "bpffs")
def test_a_pinned_map_is_shared_and_outlives_its_object(objects: Path, pins: Path) -> None:
    with BpfObject(objects / "calls.bpf.o") as first:
        first.load()
        first.maps["seen"].update(u32(1), u64(10))
        first.maps["seen"].pin(pins / "seen")
    with open_map(pins / "seen") as pinned, BpfObject(objects / "calls.bpf.o") as second:
        assert (pinned.name, pinned.type, pinned.value_size) == ("seen", 1, 8)
        second.maps["seen"].reuse_fd(pinned.fd)
        second.load()
        second.programs["multiply"].test_run(u64(7) + bytes(16))
        assert sorted(pinned.keys()) == [u32(1), u32(7)]
        pinned.unpin(pins / "seen")
        with pytest.raises(BpfError, match="exists already"):
            pinned.set_max_entries(3)
    with pytest.raises(BpfError, match="closed"):
        _ = pinned.fd
    with pytest.raises(BpfError, match="cannot open what is pinned"):
        obj_get(pins / "seen")


@pytest.mark.kernel("syscall", "bpffs")
def test_pinning_outside_of_bpffs_says_so(calls: BpfObject, tmp_path: Path) -> None:
    calls.load()
    with pytest.raises(KmindError, match="bpf file system"):
        calls.maps["seen"].pin(tmp_path / "seen")


@pytest.mark.kernel("syscall")
def test_a_closed_object_answers_with_an_error(calls: BpfObject) -> None:
    calls.load()
    seen, multiply = calls.maps["seen"], calls.programs["multiply"]
    calls.close()
    calls.close()
    for use in (lambda: seen.fd, lambda: seen.lookup(u32(1)), lambda: multiply.fd, multiply.attach):
        with pytest.raises(BpfError, match="closed"):
            use()
    with pytest.raises(BpfError, match="loaded already"):
        calls.load()


@pytest.fixture
def hooks(objects: Path) -> Iterator[BpfObject]:
    with BpfObject(objects / "hooks.bpf.o") as obj:
        obj.set_arena("arena", ADDRESS, 2)
        obj.set_rodata({"arena_base": ADDRESS, "watched_pid": os.getpid()})
        obj.load()
        yield obj


def attach_and_call(hooks: BpfObject) -> Link:
    link = hooks.programs["count_calls"].attach()
    for _ in range(100):
        os.getppid()
    return link


@pytest.mark.kernel("tp_btf", "arena")
def test_tracepoint_program_and_process_share_the_arena(hooks: BpfObject) -> None:
    arena_map = hooks.maps["arena"]
    assert (arena_map.max_entries, arena_map.extra) == (2, ADDRESS)
    with map_arena(arena_map.fd, ADDRESS, 2) as arena:
        assert (arena.address, arena.size) == (ADDRESS, 2 * PAGE)
        words = arena.buffer.view("u8")
        attach_and_call(hooks).close()
        counted = int(words[0])
        assert counted >= 100
        assert words[PAGE // 8 + 1] > 0
        os.getppid()
        assert words[0] == counted
        words[0] = 0
        assert arena.buffer[0] == 0


@pytest.mark.kernel("tp_btf", "arena")
def test_arrays_survive_the_closing_of_their_arena(hooks: BpfObject) -> None:
    fd = hooks.maps["arena"].fd
    arena = map_arena(fd, ADDRESS, 2)
    words = arena.buffer.view("u8")
    words[0] = 7
    with pytest.raises(BpfError, match="mapped there already"):
        map_arena(fd, ADDRESS, 2)
    arena.close()
    arena.close()
    assert words[0] == 7
    with pytest.raises(BpfError, match="closed"):
        _ = arena.buffer
    del words
    with map_arena(fd, ADDRESS, 2, prefault=False) as again:
        assert again.buffer[0] == 7


@pytest.mark.kernel("tp_btf", "arena")
def test_libbpf_maps_no_arena_and_unmaps_none(objects: Path) -> None:
    """From 1.5 on it would, over whatever lies there; this fails with one that may."""
    taken = mmap_at(ADDRESS, PAGE)
    taken[:4] = list(b"mine")
    with BpfObject(objects / "hooks.bpf.o") as obj:
        obj.set_arena("arena", ADDRESS, 2)
        obj.set_rodata({"arena_base": ADDRESS, "watched_pid": os.getpid()})
        obj.load()
        assert bytes(taken[:4]) == b"mine"
        with pytest.raises(BpfError, match="mapped there already"):
            map_arena(obj.maps["arena"].fd, ADDRESS, 2)
        del taken
        with map_arena(obj.maps["arena"].fd, ADDRESS, 2) as arena:
            words = arena.buffer.view("u8")
            words[0] = 7
            obj.close()
            assert words[0] == 7


def mmap_at(address: int, size: int) -> np.ndarray:
    """New memory at that place, which must be free, until the array is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    words = (ctypes.c_void_p(address), ctypes.c_size_t(size), 3, flags, -1, ctypes.c_long(0))
    assert libc.mmap(*words) == address
    region = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(region, libc.munmap, ctypes.c_void_p(address), ctypes.c_size_t(size))
    return np.frombuffer(memoryview(region).cast("B"), np.uint8)


@pytest.mark.kernel("arena")
@pytest.mark.parametrize(
    ("address", "pages", "complaint"),
    [
        (ADDRESS + 1, 1, "start of a page"),
        (ADDRESS, 0, "at least one page"),
        (ADDRESS + (1 << 32) - PAGE, 2, "4 GiB"),
        (ADDRESS + (1 << 32), 2, "another address"),
    ],
)
def test_an_arena_maps_only_at_its_own_address(
    hooks: BpfObject, address: int, pages: int, complaint: str
) -> None:
    with pytest.raises(KmindError, match=complaint):
        map_arena(hooks.maps["arena"].fd, address, pages)


@pytest.mark.kernel("arena")
def test_set_arena_takes_only_an_arena(objects: Path) -> None:
    with BpfObject(objects / "hooks.bpf.o") as obj:
        for name in ("hooks.rodata", "absent"):
            with pytest.raises(BpfError, match="has no arena"):
                obj.set_arena(name, ADDRESS, 1)


@pytest.mark.kernel("tp_btf", "arena", "bpffs")
def test_a_pinned_link_keeps_the_program_running(objects: Path, pins: Path) -> None:
    with BpfObject(objects / "hooks.bpf.o") as obj:
        obj.set_arena("arena", ADDRESS, 2)
        obj.set_rodata({"arena_base": ADDRESS, "watched_pid": os.getpid()})
        obj.load()
        obj.maps["arena"].pin(pins / "arena")
        obj.programs["count_calls"].attach().pin(pins / "link")
    with open_map(pins / "arena") as pinned, map_arena(pinned.fd, pinned.extra, 2) as arena:
        words = arena.buffer.view("u8")
        before = int(words[0])
        os.getppid()
        assert words[0] > before
        open_link(pins / "link").detach()
        assert not (pins / "link").exists()
        after = int(words[0])
        os.getppid()
        assert words[0] == after


@pytest.mark.kernel("iter_task", "arena", "bpffs")
def test_task_iterator_and_its_pin(hooks: BpfObject, pins: Path) -> None:
    link = hooks.programs["list_tasks"].attach_iter()
    assert str(os.getpid()) in read_iter(link).decode().split()
    link.pin(pins / "tasks")
    link.close()
    assert str(os.getpid()) in (pins / "tasks").read_text().split()
    with pytest.raises(BpfError, match="closed"):
        read_iter(link)


@pytest.mark.kernel("syscall")
def test_the_verifiers_refusal_names_the_line(objects: Path) -> None:
    with BpfObject(objects / "refused.bpf.o") as obj:
        with pytest.raises(LoadError) as caught:
            obj.load()
        with pytest.raises(BpfError, match="is not loaded"):
            _ = obj.programs["careless"].fd
    error = caught.value
    assert "cannot load careless of refused.bpf.o" in str(error)
    assert "R0 invalid mem access 'map_value_or_null'" in str(error)
    line = next(
        number
        for number, text in enumerate((SOURCES / "refused.bpf.c").read_text().splitlines(), 1)
        if "return *value" in text
    )
    assert error.source_line.startswith(f"refused.bpf.c:{line}: return *value;")
    assert "R0 invalid mem access" in error.verifier_log
    assert len(error.verifier_log.splitlines()) <= 20


@pytest.mark.kernel("tp_btf")
def test_a_hook_that_the_kernel_has_not_is_named(objects: Path) -> None:
    with BpfObject(objects / "refused.bpf.o") as obj:
        obj.programs["careless"].set_autoload(False)
        assert not obj.programs["nowhere"].autoload
        obj.programs["nowhere"].set_autoload(True)
        with pytest.raises(LoadError, match=r"cannot load nowhere.*no_such_tracepoint"):
            obj.load()


@pytest.mark.kernel("syscall")
def test_nothing_is_printed(objects: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with BpfObject(objects / "refused.bpf.o") as obj, pytest.raises(LoadError):
        obj.load()
    assert capfd.readouterr() == ("", "")


@pytest.mark.kernel("syscall")
def test_without_privileges_load_says_so(objects: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            obj = BpfObject(objects / "calls.bpf.o")
            os.setresuid(65534, 65534, 65534)
            obj.load()
        except PrivilegeError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        text = said.read()
    assert re.fullmatch("cannot load .* of calls.bpf.o: not held: CAP_BPF, CAP_PERFMON; .*", text)


def test_files_that_are_no_objects(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="cannot read"):
        BpfObject(tmp_path / "absent.bpf.o")
    (tmp_path / "text.bpf.o").write_text("text" * 100)
    with pytest.raises(KmindError, match="ELF64"):
        BpfObject(tmp_path / "text.bpf.o")


@pytest.mark.kernel("cgroup_sysctl", "cgroup2")
def test_a_program_of_a_cgroup_acts_on_its_processes_only(calls: BpfObject) -> None:
    calls.load()
    group = Path(probe("cgroup2").cause) / f"kmind-test-{uuid.uuid4().hex}"
    command = f"echo $$ > {group}/cgroup.procs && cat /proc/sys/vm/swappiness"
    group.mkdir()
    try:
        link = calls.programs["refuse"].attach_cgroup(group)
        refused = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert "Operation not permitted" in refused.stderr
        assert Path("/proc/sys/vm/swappiness").read_text()
        link.close()
        assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0
    finally:
        group.rmdir()


def test_attach_that_cannot_be(objects: Path) -> None:
    with BpfObject(objects / "calls.bpf.o") as obj:
        with pytest.raises(KmindError, match="cannot attach program multiply"):
            obj.programs["multiply"].attach()
        with pytest.raises(BpfError, match="cannot open cgroup"):
            obj.programs["multiply"].attach_cgroup("/absent")


def test_library_that_is_absent(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmind.bpf import _libbpf

    monkeypatch.setattr(_libbpf, "LIBRARY", "libbpf-absent.so.1")
    _libbpf.lib.cache_clear()
    try:
        with pytest.raises(NotSupportedError, match="apt install libbpf1"):
            BpfObject(objects / "calls.bpf.o")
        monkeypatch.setattr(_libbpf, "LIBRARY", "libc.so.6")
        with pytest.raises(NotSupportedError, match="too old"):
            BpfObject(objects / "calls.bpf.o")
    finally:
        monkeypatch.undo()
        _libbpf.lib.cache_clear()
    assert _libbpf.version() >= (1, 1)
