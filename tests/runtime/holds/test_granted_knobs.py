# SPDX-License-Identifier: Apache-2.0
"""Grants as the agent goes by them."""

from contextlib import closing
from pathlib import Path

from runtime.measured import Owner

from kmind.agent.sim.agent import SimDoorbell
from kmind.agent.types import Verdict
from kmind.queue import Endpoint


def test_what_is_granted_no_more_is_refused(tmp_path: Path) -> None:
    """An instance that is loaded anew may be granted fewer knobs than before."""
    with closing(Owner(tmp_path, lambda value: 1000.0)) as owner:
        queue = Endpoint(owner.agent.arena, SimDoorbell(owner.agent.doorbell_fd)).cq

        def verdict(rec_id: int) -> Verdict:
            words = {"type": 1, "expires_ns": 1 << 62, "hold_ms": 1000}
            assert queue.submit(*owner.granted.key, 256, **words) == rec_id
            owner.run(0.1)
            (answer,) = queue.answers()
            assert answer[0] == rec_id
            return Verdict(answer[1])

        assert verdict(1) == Verdict.APPROVED
        owner.changes.knobs.grant([])
        assert owner.changes.knobs.usable() == []
        assert verdict(2) == Verdict.UNKNOWN


def test_what_was_yielded_is_refused_until_it_is_reclaimed(tmp_path: Path) -> None:
    with closing(Owner(tmp_path, lambda value: 1000.0)) as owner:
        knobs, each = owner.changes.knobs, owner.granted
        queue = Endpoint(owner.agent.arena, SimDoorbell(owner.agent.doorbell_fd)).cq

        def verdict(rec_id: int) -> Verdict:
            words = {"type": 1, "expires_ns": 1 << 62, "hold_ms": 1000}
            assert queue.submit(*each.key, 256, **words) == rec_id
            owner.run(0.1)
            ((_, number, *_),) = queue.answers()
            return Verdict(number)

        knobs.give_up(each)
        assert knobs.yielded == (each.knob.name,)
        assert verdict(1) == Verdict.RANGE
        knobs.grant([each])  # as after a reload, by which nothing is reclaimed
        assert verdict(2) == Verdict.RANGE
        knobs.reclaim()
        knobs.grant([each])
        assert knobs.yielded == ()
        assert verdict(3) == Verdict.APPROVED


def test_values_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    with closing(Owner(tmp_path, lambda value: 1000.0)) as owner:
        knobs, each = owner.changes.knobs, owner.granted
        assert knobs.values() == {each.knob.name: 128}
        (owner.root / "sys/block/sim0/queue/read_ahead_kb").unlink()
        assert knobs.values() == {}
        assert knobs.read(each) is None
        assert knobs.code(each) == 128
