# SPDX-License-Identifier: Apache-2.0
"""Modules, tried on this kernel: what runs, what it loses, and what does not run, and why."""

import os
import shutil
from pathlib import Path

import pytest
from agents import REFUSED, compile_bpf
from sample_module import MANIFEST, make_module

import kmind
from kmind.abi import btf
from kmind.extension import find_module
from kmind.runtime.instance.ability import Ability, Loss, try_built_in, try_core, try_module

OPTIONAL = "optional = true\n"
BUILT_IN = Path(kmind.__file__).parent / "modules"

on_kernel = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")


def _open_files() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


@on_kernel
def test_every_built_in_module_is_tried() -> None:
    before = _open_files()
    assert try_core() == Ability("core", "ok")
    tried = try_built_in()
    assert {each.name for each in tried} == {path.parent.name for path in BUILT_IN.glob("*/*.toml")}
    assert [each.name for each in tried] == sorted(each.name for each in tried)
    for each in tried:
        assert (each.state in ("ok", "partly")) is (each.cause == ""), each
        assert (each.state == "partly") is bool(each.lost), each
    assert _open_files() == before


def _with_hook(folder: Path, line: str) -> Path:
    # The module static, whose hook stands on a tracepoint that no kernel has.
    module = folder / "static"
    shutil.copytree(BUILT_IN / "static", module)
    manifest = (module / "module.toml").read_text()
    before = f'tracepoint = "block_rq_complete"\n{OPTIONAL}'
    assert before in manifest
    (module / "module.toml").write_text(
        manifest.replace(before, f'tracepoint = "no_such_tracepoint"\n{line}')
    )
    return module


@on_kernel
def test_an_optional_hook_that_is_not_there_is_a_loss(tmp_path: Path) -> None:
    found = try_module(find_module(f"{_with_hook(tmp_path, OPTIONAL)}/"))
    costs = "the disk's rates under the value cannot be shown"
    cause = "this kernel has no tracepoint no_such_tracepoint"
    assert (found.state, found.cause) == ("partly", "")
    assert found.lost == (Loss("on_complete", cause, costs),)


@on_kernel
def test_a_needed_hook_that_is_not_there_is_the_reason(tmp_path: Path) -> None:
    found = try_module(find_module(f"{_with_hook(tmp_path, '')}/"))
    assert found.state == "missing"
    assert "this kernel has no tracepoint no_such_tracepoint" in found.cause
    assert found.cause.endswith(", which hook on_complete needs")


HOOK = '\n[[hook]]\nprogram = "on_complete"\ntracepoint = "block_rq_complete"\ncosts = "all"\n'


@on_kernel
def test_a_program_that_the_verifier_refuses_is_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "refused.bpf.c"
    source.write_text(REFUSED)
    folder = make_module(tmp_path, manifest=MANIFEST + HOOK)
    compile_bpf(source, folder / "readahead.bpf.o")
    found = try_module(find_module(f"{folder}/"))
    assert found.state == "missing"
    assert "cannot load on_complete of " in found.cause
    assert "the verifier says: " in found.cause
    assert "9999" in found.cause


@pytest.mark.skipif(os.geteuid() != 0, reason="the first that a user who is not root lacks is root")
def test_a_kernel_without_btf_runs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(btf, "KERNEL_BTF", tmp_path / "vmlinux")
    for each in try_built_in():
        assert each.state == "missing"
        assert "this kernel shows no BTF" in each.cause


def test_an_agent_that_is_not_compiled_is_the_reason(tmp_path: Path) -> None:
    folder = make_module(tmp_path)
    for path in folder.glob("*.bpf.o"):
        path.unlink()
    found = try_module(find_module(f"{folder}/"))
    assert found.state == ("refused" if os.geteuid() else "missing")
    assert ("not compiled" in found.cause) is (os.geteuid() == 0)
