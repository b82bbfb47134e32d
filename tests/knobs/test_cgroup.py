# SPDX-License-Identifier: Apache-2.0
"""Knobs of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest
from knobs.trying import cgroups, takes_and_returns

from kmind.errors import UsageError
from kmind.knobs import (
    Target,
    all_knobs,
    get_knob,
    parse_target,
)

CGROUP = [knob for knob in all_knobs() if knob.target == "cgroup"]


@pytest.mark.kernel
def test_a_cgroups_knobs_take_and_return_values(cgroup: Target) -> None:
    here = [knob for knob in CGROUP if knob.exists(cgroup)]
    assert here, "neither version of cgroups has a controller here"
    for knob in here:
        takes_and_returns(knob, cgroup)
    assert parse_target(cgroup.name) == cgroup
    assert all(word.isdigit() for word in cgroup.identity().split())


def test_a_cgroups_own_way_of_writing_numbers_is_read(tmp_path: Path) -> None:
    folder = cgroups(tmp_path) / "a/web.service"
    target = Target.cgroup("/a/web.service", root=tmp_path)
    high, weight = get_knob("cgroup.memory_high"), get_knob("cgroup.io_weight")
    (folder / "memory.high").write_text("max\n")
    (folder / "io.weight").write_text("default 100\n254:0 300\n")
    assert high.read(target) == high.parse("max") == high.maximum
    assert high.maximum % high.grid == 0
    high.write(target, 64 << 20)
    assert high.read(target) == 64 << 20
    assert weight.read(target) == 100
    with pytest.raises(UsageError, match="takes an integer"):
        weight.parse("default")
