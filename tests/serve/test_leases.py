# SPDX-License-Identifier: Apache-2.0
"""What the API tells of leases, from a real core object."""

import msgspec
import pytest
from serve.memory import DISK

from kmind.agent.core import Core
from kmind.knobs import get_knob, parse_target
from kmind.serve.leases import describe_leases
from kmind.serve.schema import Lease


@pytest.mark.kernel("libbpf", "btf")
def test_holders_and_knobs_have_names() -> None:
    knob, target = get_knob("block.read_ahead_kb").id, parse_target(DISK).id
    with Core.private() as core:
        first = core.register(f"a@{DISK}", "a", "tuner")
        second = core.register(f"b@{DISK}", "b", "tuner")
        assert core.acquire(first, knob, target, hold_s=30, priority=7)
        assert not core.acquire(second, knob, target, hold_s=30, priority=7)
        assert core.acquire(second, 12345, 0, hold_s=30)
        held, unknown = sorted(describe_leases(core), key=lambda each: each["holder"])
        expires_s = held.pop("expires_s")
        assert held == {
            "knob": "block.read_ahead_kb", "target": DISK, "holder": f"a@{DISK}",
            "priority": 7, "denied": 1,
        }  # fmt: skip
        assert 29 < expires_s < 40
        assert unknown["knob"] == "12345"
        msgspec.convert(unknown, Lease)
        core.release(first)
        assert len(describe_leases(core)) == 1
