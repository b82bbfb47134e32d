# SPDX-License-Identifier: Apache-2.0
"""Knobs of disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from knobs.trying import name_of, spare, takes_and_returns
from programs import machine_lacks

from kmind.knobs import (
    Knob,
    Target,
    all_knobs,
    block_devices,
)

BLOCK = [knob for knob in all_knobs() if knob.target == "block"]


def unused_zram() -> Target:
    for name in block_devices():
        state = Path(f"/sys/block/{name}/initstate")
        if state.exists() and state.read_text() == "0\n":
            return Target.block(name)
    return machine_lacks("no zram device that is not set up: modprobe zram")


@pytest.mark.kernel
@pytest.mark.parametrize("knob", BLOCK, ids=name_of)
def test_a_block_knob_takes_and_returns_values(knob: Knob) -> None:
    takes_and_returns(knob, unused_zram() if knob.name.startswith("zram.") else spare())
