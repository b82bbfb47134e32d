# SPDX-License-Identifier: Apache-2.0
"""``kmind doctor`` on this machine, and on one that lacks something."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmind.abi import btf
from kmind.bpf import _libbpf, probe
from kmind.cli import doctor as doctor_module
from kmind.cli.doctor import SCHEMA, run_doctor
from kmind.runtime.instance.ability import Ability, Loss, Replacement


class Terminal(io.StringIO):
    """An output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


HALF = Ability("half", "partly", lost=(Loss("on_read", "it is not there", "reads"),))
ELSEWHERE = Ability(
    "else",
    "ok",
    replaced=(
        Replacement("on_read", "on_read_entry", "filemap_read", "", "splice"),
        Replacement("on_sync", "on_sync_other", "", "other", ""),
    ),
)
NONE = Ability("none", "missing", "the verifier says: no")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try no module, which takes seconds: ``runtime/instance/test_ability.py`` does."""
    tried = [Ability("all", "ok"), HALF, ELSEWHERE, NONE]
    monkeypatch.setattr(doctor_module, "try_built_in", lambda: tried)


def doctor(*, json: bool = False, out: io.StringIO | None = None) -> tuple[int, str]:
    out = out or io.StringIO()
    return run_doctor(json=json, out=out), out.getvalue()


def test_json_has_its_schema() -> None:
    code, text = doctor(json=True)
    report = json.loads(text)
    assert report["schema"] == SCHEMA == "kmind.doctor/1"
    assert report["ok"] is (code == 0)
    assert [p["name"] for p in report["probes"]] == list(probe.names())
    for each in report["probes"]:
        assert set(each) == {"name", "state", "cause", "costs", "required"}
    required = {p["name"] for p in report["probes"] if p["required"]}
    assert required >= {"root", "btf", "libbpf", "array_mmap", "ringbuf", "tp_btf", "bpf_timer"}
    assert not required & {"arena", "arena_atomics"}, "an array map takes their place"
    assert report["kernel"] == os.uname().release
    assert text.count("\n") == 1


def test_a_core_that_does_not_load_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Ability("core", "missing", "the verifier says: infinite loop")
    monkeypatch.setattr(doctor_module, "try_core", lambda: found)
    code, text = doctor(json=True)
    report = json.loads(text)
    assert report["core"] == {"state": "missing", "cause": "the verifier says: infinite loop"}
    assert not report["ok"]
    assert code == (77 if os.geteuid() else 4)
    lines = doctor()[1].splitlines()
    assert "core" in lines[-1]
    assert any(
        line.split() == ["missing", "core", "needed", *found.cause.split()] for line in lines
    )


def test_json_says_of_each_module_what_it_loses() -> None:
    modules = json.loads(doctor(json=True)[1])["modules"]
    assert modules[2]["replaced"] == [
        {
            "hook": "on_read",
            "program": "on_read_entry",
            "function": "filemap_read",
            "tracepoint": "",
            "loses": "splice",
        },
        {
            "hook": "on_sync",
            "program": "on_sync_other",
            "function": "",
            "tracepoint": "other",
            "loses": "",
        },
    ]
    assert [modules[1], modules[3]] == [
        {
            "name": "half",
            "state": "partly",
            "cause": "",
            "lost": [{"hook": "on_read", "cause": "it is not there", "costs": "reads"}],
            "replaced": [],
        },
        {
            "name": "none",
            "state": "missing",
            "cause": "the verifier says: no",
            "lost": [],
            "replaced": [],
        },
    ]


def test_plain_lines_name_every_probe() -> None:
    _, text = doctor()
    lines = text.splitlines()
    assert os.uname().release in lines[0]
    middle = lines.index("Modules")
    assert [line.split()[1] for line in lines[1 : middle - 1]] == [*probe.names(), "core"]
    assert lines[middle + 1 : -1] == [
        "ok       all",
        "partly   half    on_read: it is not there. Costs: reads",
        "ok       else    on_read: at function filemap_read instead. Costs: splice; "
        "on_sync: at tracepoint other instead",
        "missing  none    the verifier says: no",
    ]
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("asked", "shape", "line"),
    [
        ("array", "array", "Agents share memory by an array map, as KMIND_SHARED asks."),
        ("mmap", None, "Agents cannot share memory: KMIND_SHARED is 'mmap', which is no kind of "),
    ],
)
def test_shared_memory_as_asked(
    monkeypatch: pytest.MonkeyPatch, asked: str, shape: str | None, line: str
) -> None:
    monkeypatch.setenv("KMIND_SHARED", asked)
    assert json.loads(doctor(json=True)[1])["shared_memory"] == shape
    lines = doctor()[1].splitlines()
    assert lines[lines.index("Modules") - 1].startswith(line)


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb"), None])
def test_a_table_only_on_a_terminal_that_wants_it(
    monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str] | None
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if variable:
        monkeypatch.setenv(*variable)
    _, text = doctor(out=Terminal())
    assert ("\x1b" in text) is (variable is None)


def test_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(btf, "KERNEL_BTF", tmp_path / "vmlinux")
    code, text = doctor()
    assert code == (77 if os.geteuid() else 4)
    line = next(line for line in text.splitlines() if line.split()[:2] == ["missing", "btf"])
    assert "Costs: no agent can run" in line
    assert text.splitlines()[-1].startswith("Required, but missing: ")
    assert "btf" in text.splitlines()[-1]


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libbpf, "LIBRARY", "libbpf-absent.so.1")
    _libbpf.lib.cache_clear()
    try:
        code, text = doctor(json=True)
    finally:
        monkeypatch.undo()
        _libbpf.lib.cache_clear()
    states = {p["name"]: p["state"] for p in json.loads(text)["probes"]}
    assert code == (77 if os.geteuid() else 4)
    assert states["libbpf"] == "missing"
    assert os.geteuid() or states["array_mmap"] == "ok"


def test_without_root() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setresuid(65534, 65534, 65534)
            with os.fdopen(writer, "w") as out:
                code = run_doctor(json=True, out=out)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        report = json.loads(said.read())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 77
    states = {p["name"]: p["state"] for p in report["probes"]}
    assert report["ok"] is False
    assert states["root"] == states["capabilities"] == "refused"
    assert "ok" not in (states["array_mmap"], states["tp_btf"], states["syscall"])


def test_nothing_else_is_written() -> None:
    source = Path(__file__).resolve().parents[2] / "src"
    program = "import sys, kmind.cli.doctor as d; d.run_doctor(json=True, out=sys.stdout)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    assert json.loads(run.stdout)["schema"] == SCHEMA
