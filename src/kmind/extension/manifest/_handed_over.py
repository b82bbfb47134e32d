# SPDX-License-Identifier: Apache-2.0
"""The kinds of findings and reports that a module declares in its manifest.

A kind says what the owner may not take from an extension's own words: how serious it is, what
its score means, and when a finding opens, closes and expires.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kmind.extension._parameter import Name, Part, Text

__all__ = ["FindingPart", "ReportPart", "Severity"]

Severity = Literal["info", "warning", "critical"]
"""Severities of findings, in ascending order."""


class FindingPart(Part, frozen=True):
    """``[[finding]]``: a kind of finding that a detector hands over.

    ``score`` says what a finding's score means, in ``unit``; from ``critical_from`` on the
    finding is critical, else it has ``severity``. It opens once it has been found for
    ``opens_after_s``, and closes once it was cleared and not found again for
    ``closes_after_s``, or once nobody has confirmed it for ``expires_s`` (all in seconds).
    """

    name: Name
    help: Text
    severity: Severity
    score: Text
    unit: str = ""
    critical_from: float | None = None
    opens_after_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0
    closes_after_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 60.0
    expires_s: Annotated[float, msgspec.Meta(ge=30, le=86400)] = 300.0


class ReportPart(Part, frozen=True):
    """``[[report]]``: a kind of report that a reporter files, kept for ``keep_days``."""

    name: Name
    help: Text
    keep_days: Annotated[float, msgspec.Meta(gt=0, le=365)] = 30.0
