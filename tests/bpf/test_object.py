# SPDX-License-Identifier: Apache-2.0
"""The libbpf binding against the real kernel."""

import os
import re
from pathlib import Path

import pytest
from bpf.loaded import SOURCES, u32, u64

from kmind.bpf import (
    BpfObject,
)
from kmind.errors import BpfError, KmindError, LoadError, NotSupportedError, PrivilegeError
from kmind.util.packages import install_hint


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


def test_library_that_is_absent(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmind.bpf import _libbpf

    monkeypatch.setattr(_libbpf, "LIBRARY", "libbpf-absent.so.1")
    _libbpf.lib.cache_clear()
    try:
        hint = re.escape(install_hint("libbpf", "1.1 or later"))
        with pytest.raises(NotSupportedError, match=hint):
            BpfObject(objects / "calls.bpf.o")
        monkeypatch.setattr(_libbpf, "LIBRARY", "libc.so.6")
        with pytest.raises(NotSupportedError, match="too old"):
            BpfObject(objects / "calls.bpf.o")
    finally:
        monkeypatch.undo()
        _libbpf.lib.cache_clear()
    assert _libbpf.version() >= (1, 1)
