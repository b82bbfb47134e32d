# SPDX-License-Identifier: Apache-2.0
"""Grants of an instance."""

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
        owner.changes.grant([])
        assert owner.changes.usable() == []
        assert verdict(2) == Verdict.UNKNOWN
