# SPDX-License-Identifier: Apache-2.0
"""Values that an instance holds, as they are told."""

from pathlib import Path

from runtime.measured import KNOB, Owner

from kmind.agent.types import Mode
from kmind.runtime.holds.holds import _MOST_VALUES


def test_of_all_values_ever_set_the_latest_are_told(tmp_path: Path) -> None:
    owner = Owner(tmp_path, lambda value: 1000.0, mode=Mode.AUTO)
    (each,) = owner.changes.knobs.usable()
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
