# SPDX-License-Identifier: Apache-2.0
"""Designs of the owner's experiments: lengths, bars, and the error that each may make."""

from __future__ import annotations

from collections.abc import Iterable

from kmind.evidence import Design
from kmind.extension.manifest.outcome import EvidencePart
from kmind.knobs import Knob
from kmind.runtime.experiment.case import Case
from kmind.runtime.experiment.measure.readings import Readings

__all__ = ["confirmation_design", "trial_design"]

# Blocks under the incumbent, the fewest that give a noise: those of an experiment that was won
# are often as many, so that the next one can begin at once.
_CALIBRATION = 5
_LOSS_LEVEL = 0.01  # the error that the high end may make, which a loss stands on
_PAIRS, _PAIRS_AGAIN = 20, 10
_SLOW_S = 1.5  # a knob that works slowly is given that long at least


def trial_design(case: Case, plan: EvidencePart, level: float | None = None) -> Design:
    """Of one value against another, by the module's plan.

    ``level`` is the error that a gain may make; None for what was drawn before.
    """
    design = Design(
        block_s=plan.block_s,
        wash_out_s=plan.wash_out_s,
        max_s=max(plan.max_s, 4 * (plan.block_s + plan.wash_out_s)),
        min_gain=plan.min_gain,
        better=case.outcome.better,
        calibration=_CALIBRATION,
    )
    return design if level is None else _at(level, design)


def confirmation_design(
    source: Readings, plan: EvidencePart, knobs: Iterable[Knob], level: float | None = None
) -> Design:
    """Of all that is held against the baseline, by the objective's readings.

    ``level`` is the error that a gain may make; None for a setting that is measured again.
    """
    slow = any(knob.settle == "slow" for knob in knobs)
    block_s = max(2 * plan.block_s, 1.2 * source.needs_s)
    wash_out_s = max(plan.wash_out_s, _SLOW_S if slow else 0.0)
    blocks = 2 * (_PAIRS_AGAIN if level is None else _PAIRS) + _CALIBRATION
    design = Design(
        block_s=block_s,
        wash_out_s=wash_out_s,
        max_s=blocks * (block_s + wash_out_s),
        better=source.better,
        calibration=_CALIBRATION,
    )
    return design if level is None else _at(level, design)


def _at(level: float, design: Design) -> Design:
    alpha = level + _LOSS_LEVEL
    return Design.from_dict(design.to_dict() | {"alpha": alpha, "keep_share": level / alpha})
