# SPDX-License-Identifier: Apache-2.0
"""The rings on arm64, between two CPUs, in both shapes: in a guest, by arm64_script.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vm.arm64 import run_on_arm64

pytestmark = [pytest.mark.guest("arm64"), pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).with_name("arm64_script.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_on_arm64(tmp_path_factory.mktemp("arm64"), SCRIPT)


def test_it_is_an_arm64_with_two_cpus(found: dict[str, Any]) -> None:
    assert (found["machine"], found["cpus"]) == ("aarch64", 2)


@pytest.mark.parametrize("shape", ["arena", "array"])
def test_no_record_is_lost_torn_or_out_of_order(found: dict[str, Any], shape: str) -> None:
    seen = found[shape]
    assert seen["pushed"] >= 100_000  # a million, unless this machine is very busy
    assert seen["read"] == seen["pushed"]
    assert seen["disordered"] == 0


@pytest.mark.parametrize("shape", ["arena", "array"])
def test_no_recommendation_is_torn_or_lost(found: dict[str, Any], shape: str) -> None:
    seen = found[shape]
    assert seen["asked"] > 100
    assert seen["verdicts"] == {"UNKNOWN": seen["asked"]}  # nothing is granted there
