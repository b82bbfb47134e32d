# SPDX-License-Identifier: Apache-2.0
"""What an owner may set, and remembers to have set."""

from contextlib import closing
from pathlib import Path

from runtime.measured import KNOB, Owner

from kmind.agent.sim.agent import SimDoorbell
from kmind.agent.types import Mode, Verdict
from kmind.queue import Endpoint
from kmind.runtime.holds.holds import _MOST_VALUES


def test_of_all_values_ever_set_the_latest_are_told(tmp_path: Path) -> None:
    owner = Owner(tmp_path, lambda value: 1000.0, mode=Mode.AUTO)
    (each,) = owner.changes.usable()
    for n in range(_MOST_VALUES + 20):
        owner.changes._note(each, n)
    (told,) = owner.changes.summary()
    assert told["knob"] == KNOB.name
    assert told["values"] == list(range(20, _MOST_VALUES + 20))


def test_rows_say_what_is_on_trial(tmp_path: Path) -> None:
    owner = Owner(tmp_path, lambda value: 1000.0 if value == 128 else 2000.0)
    owner.recommend(16)
    owner.run(60, until=owner.journal.open_changes)
    assert [change.trial for change in owner.journal.open_changes()] == [True]
    owner.run(200, until=lambda: owner.of("kept"))
    assert owner.of("kept")
    assert [change.trial for change in owner.journal.open_changes()] == [False]


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
