# SPDX-License-Identifier: Apache-2.0
"""Detectors: find what is wrong, and change nothing."""

from kmind.classes._base import FINDINGS, ModuleClass

__all__ = ["CLASS"]

CLASS = ModuleClass(
    "detector",
    help="Hands over findings of what is wrong now, and changes nothing.",
    services=(FINDINGS,),
)
