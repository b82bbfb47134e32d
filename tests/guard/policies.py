# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of policy and its neighbours."""

from __future__ import annotations

from pathlib import Path

from kmind.guard import Policy
from kmind.knobs import Target, get_knob

SYSTEM = Target.system()
READ_AHEAD = get_knob("block.read_ahead_kb")
SWAPPINESS = get_knob("vm.swappiness")


def load(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return Policy.load(file)


def disk(name: str) -> Target:
    return Target("block", name, 1 << 20)
