# SPDX-License-Identifier: Apache-2.0
"""Knobs of memory management."""

from __future__ import annotations

from pathlib import Path

import pytest
from knobs.trying import SYSTEM, name_of, system, takes_and_returns

from kmind.errors import KnobError
from kmind.knobs import (
    Knob,
    Target,
    all_knobs,
    get_knob,
)


def test_the_kernel_has_the_knobs_of_memory_management() -> None:
    assert {k.name for k in all_knobs() if k.path.startswith("proc/sys/")} <= {
        k.name for k in SYSTEM
    }


@pytest.mark.kernel
@pytest.mark.parametrize("knob", SYSTEM, ids=name_of)
def test_a_system_knob_takes_and_returns_values(knob: Knob) -> None:
    takes_and_returns(knob, system)


def test_a_ratio_is_not_written_while_bytes_are_in_force(tmp_path: Path) -> None:
    folder = tmp_path / "proc/sys/vm"
    folder.mkdir(parents=True)
    (folder / "dirty_ratio").write_text("0\n")
    (folder / "dirty_bytes").write_text("4096\n")
    target = Target.system(root=tmp_path)
    with pytest.raises(KnobError, match="not in force: /proc/sys/vm/dirty_bytes is set"):
        get_knob("vm.dirty_ratio").write(target, 20)
    assert (folder / "dirty_ratio").read_text() == "0\n"
    (folder / "dirty_bytes").write_text("0\n")
    get_knob("vm.dirty_ratio").write(target, 20)
    assert get_knob("vm.dirty_ratio").read(target) == 20
