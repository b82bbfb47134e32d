# SPDX-License-Identifier: Apache-2.0
"""Predictors: act on what they predict, and on nothing where they predict nothing.

A search for a better number, whatever causes it, is a tuner's: predictors have no objective.
"""

from kmind.classes._base import EXPERIMENTS, KNOBS, MODELS, ModuleClass

__all__ = ["CLASS"]

CLASS = ModuleClass(
    "predictor",
    help="Predicts what comes, sets knobs by it, and abstains where nothing was seen.",
    services=(KNOBS, EXPERIMENTS, MODELS),
    own_checks=("abstention",),
)
