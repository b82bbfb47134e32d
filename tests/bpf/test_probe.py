# SPDX-License-Identifier: Apache-2.0
"""The probes: they tell what is there from what is not, and leave nothing behind."""

import os
from pathlib import Path

import pytest

from kmind.abi import btf
from kmind.bpf import probe
from kmind.util import packages


def test_probes_answer_in_order_and_never_raise() -> None:
    found = probe.probe_all()
    assert [p.name for p in found] == list(probe.names())
    for result in found:
        assert result.state in ("ok", "missing", "refused")
        assert result.costs
        assert result.state == "ok" or result.cause
        assert "\n" not in result.cause
    with pytest.raises(KeyError):
        probe.probe("no such probe")


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.kernel
def test_probes_leave_nothing_open() -> None:
    probe.probe_all()  # what is loaded once stays
    before = open_files()
    probe.probe_all()
    assert open_files() == before


def test_a_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(btf, "KERNEL_BTF", tmp_path / "vmlinux")
    for name in ("btf", "tp_btf", "tp_readahead"):
        result = probe.probe(name)
        assert result.state == "missing"
        assert "shows no BTF" in result.cause
        assert "CONFIG_DEBUG_INFO_BTF" in result.cause


@pytest.mark.parametrize(
    ("compilers", "state", "cause"),
    [
        ({"clang": 3, "clang-99": 19, "clangd": 50}, "ok", "19"),
        (
            {"clang": 14},
            "missing",
            "version 14 is older than 19; apt install clang-19 ",
        ),
        ({}, "missing", "not installed; apt install clang-19 "),
    ],
)
def test_the_newest_clang_counts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    compilers: dict[str, int],
    state: str,
    cause: str,
) -> None:
    for name, version in compilers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'Debian clang version {version}.1.7 (3)'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "os-release").write_text("ID=debian\n")
    monkeypatch.setattr(packages, "OS_RELEASE", (tmp_path / "os-release",))
    result = probe.probe("clang")
    assert result.state == state
    assert result.cause.startswith(cause)


def test_facts() -> None:
    facts = probe.facts()
    assert facts["kernel"] == os.uname().release
    assert isinstance(facts["memlock_bytes"], int)
