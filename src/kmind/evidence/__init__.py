# SPDX-License-Identifier: Apache-2.0
"""Experiments on one change: noise, always-valid intervals, guards, verdicts.

Pure arithmetic: no clock, no files, no threads. The caller of an experiment asks which arm
comes next, measures one block under it, and hands the number in. See docs/evidence.md.
"""

from kmind.evidence._base import Arm, Better, Design, Interval, Outcome
from kmind.evidence.budget import DAY_ALPHA, LEAST_LEVEL, Budget
from kmind.evidence.experiment import Experiment
from kmind.evidence.guard import Guard
from kmind.evidence.noise import Noise
from kmind.evidence.side import Side

__all__ = [
    "DAY_ALPHA",
    "LEAST_LEVEL",
    "Arm",
    "Better",
    "Budget",
    "Design",
    "Experiment",
    "Guard",
    "Interval",
    "Noise",
    "Outcome",
    "Side",
]
