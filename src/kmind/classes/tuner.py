# SPDX-License-Identifier: Apache-2.0
"""Tuners: find values of knobs that are proven to be better."""

from kmind.classes._base import EXPERIMENTS, KNOBS, MODELS, OBJECTIVE, ModuleClass

__all__ = ["CLASS"]

CLASS = ModuleClass(
    "tuner",
    help="Sets knobs, and keeps what is proven to be better.",
    services=(KNOBS, EXPERIMENTS, OBJECTIVE, MODELS),
)
