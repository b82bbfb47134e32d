# SPDX-License-Identifier: Apache-2.0
"""Knobs of huge pages: choices."""

from __future__ import annotations

from knobs.trying import spare, system

from kmind.knobs import (
    get_knob,
)


def test_a_choice_is_read_out_of_its_brackets() -> None:
    knob = get_knob("block.scheduler")
    target = spare()
    assert knob.read(target) in knob.available(target)
    assert set(knob.available(target)) <= set(knob.choices)
    assert get_knob("vm.swappiness").available(system) == ()
