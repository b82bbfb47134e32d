# SPDX-License-Identifier: Apache-2.0
"""Telling of what becomes of knobs."""

from runtime.experiment.controlled import KIND, ratio
from runtime.measured import BASELINE, Make


def test_agent_and_extension_learn_what_stands(owner: Make) -> None:
    one = owner(ratio(1.0))
    each = one.granted
    (one.root / "sys/block/sim0/queue/read_ahead_kb").write_text("64\n")
    assert one.changes._notices.notify(each, "UNDONE", 7) == 64
    assert one.changes._notices.notify(each, "DROPPED", 8, number=3) == 64
    assert one.records()[-2:] == [(KIND["UNDONE"], 64), (KIND["DROPPED"], 3)]


def test_of_a_knob_that_cannot_be_read_the_baseline_is_told(owner: Make) -> None:
    one = owner(ratio(1.0))
    (one.root / "sys/block/sim0/queue/read_ahead_kb").unlink()
    assert one.changes._notices.notify(one.granted, "UNDONE", 7) is None
    assert one.records()[-1] == (KIND["UNDONE"], BASELINE)
