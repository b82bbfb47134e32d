# SPDX-License-Identifier: Apache-2.0
"""The demo tells a story, ends with its result, and says first where it took place."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Cli

KEYS = {"schema", "backend", "device", "before", "after", "gain", "changes", "restored"}


def check(lines: list[str]) -> dict[str, Any]:
    records = [json.loads(line) for line in lines]
    assert {record["schema"] for record in records} == {"kmind.demo/1"}
    result: dict[str, Any] = records[-1]
    assert set(result) == KEYS
    assert result["restored"]
    assert result["gain"] == pytest.approx(result["after"] / result["before"])
    assert result["gain"] > 1
    assert {"knob", "old", "value", "reason", "evidence"} == set(result["changes"][0])
    return result


@pytest.mark.slow
def test_without_root_it_is_simulated(cli: "Cli") -> None:
    done = cli("demo", "--json", root=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "simulated disk, not on this machine's kernel: this is not root" in lines[0]
    assert check(lines)["backend"] == "sim"


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.fault
@pytest.mark.kernel("libbpf", "btf", "arena", "bpf_timer", "tp_btf", "tp_filemap")
def test_on_the_kernel(cli: "Cli") -> None:
    done = cli("demo", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "on the real kernel" in lines[0]
    result = check(lines)
    assert result["backend"] == "bpf"
    assert Path("/sys/block", result["device"]).exists()
