# SPDX-License-Identifier: Apache-2.0
"""Reporters: file what happened, and change nothing."""

from kmind.classes._base import REPORTS, ModuleClass

__all__ = ["CLASS"]

CLASS = ModuleClass(
    "reporter",
    help="Files reports of what happened, and changes nothing.",
    services=(REPORTS,),
)
