# SPDX-License-Identifier: Apache-2.0
"""Findings and reports of one instance: checked, made printable, and given to the keeper.

The extension is not trusted. What it hands over is bounded in size and number, has to be of a
kind that the module's manifest declares, and is always of this instance's own target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from kmind.extension import Manifest
from kmind.extension.handover import (
    FINDINGS_A_MINUTE,
    REPORTS_A_MINUTE,
    Cleared,
    Filed,
    Found,
    read,
)
from kmind.extension.manifest.manifest import FindingPart, ReportPart
from kmind.knobs import Target
from kmind.runtime.findings.keeper import Finder, Findings
from kmind.util.ratelimit import Allowance
from kmind.util.text import clean

__all__ = ["FindingHandler", "ReportHandler"]

_LINES_A_MINUTE = 20  # of what is left out

_Note = TypeVar("_Note", bound=msgspec.Struct)


class FindingHandler:
    """Handle findings of one instance's extension; ``log`` gets the reason if one is left out."""

    kinds = ("finding", "cleared")

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        target: Target,
        findings: Findings,
        log: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self.manifest = manifest
        self._who = Finder(name, manifest.name, target.name, target.identity())
        self._findings = findings
        self._log = log
        self._allowance = Allowance(now, FINDINGS_A_MINUTE, self._refuse)
        # Each may cost a line of the log, and those are fewer.
        self._wrong = Allowance(now, _LINES_A_MINUTE, self._refuse)

    def handle(self, kind: str, text: bytes) -> None:
        """Check one, and open, confirm or clear a finding by it."""
        if not self._allowance.allow():
            return
        try:
            if kind == "finding":
                finding = _printable(read(text, Found))
                self._findings.find(self._who, self._part(finding.kind), finding)
            else:
                cleared = read(text, Cleared)
                self._findings.clear(self._who, self._part(cleared.kind), clean(cleared.part))
        except Exception as error:  # it is no text of ours
            if self._wrong.allow():
                self._refuse(str(error))

    def _part(self, kind: str) -> FindingPart:
        for part in self.manifest.findings:
            if part.name == kind:
                return part
        raise ValueError(f"the manifest declares no finding {kind!r}")

    def _refuse(self, why: str) -> None:
        self._log(f"a finding is left out: {clean(why, 200)}")


class ReportHandler:
    """Handle reports of one instance's extension; ``log`` gets the reason if one is left out."""

    kinds = ("report",)

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        target: Target,
        findings: Findings,
        log: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self.manifest = manifest
        self._who = Finder(name, manifest.name, target.name, target.identity())
        self._findings = findings
        self._log = log
        # Good or bad: each costs time, or a line of the log.
        self._allowance = Allowance(now, REPORTS_A_MINUTE, self._refuse)

    def handle(self, kind: str, text: bytes) -> None:
        """Check one, and keep it."""
        if not self._allowance.allow():
            return
        try:
            filed = _printable(read(text, Filed))
            self._findings.file(self._who, self._part(filed.kind), filed)
        except Exception as error:  # it is no text of ours
            self._refuse(str(error))

    def _part(self, kind: str) -> ReportPart:
        for part in self.manifest.reports:
            if part.name == kind:
                return part
        raise ValueError(f"the manifest declares no report {kind!r}")

    def _refuse(self, why: str) -> None:
        self._log(f"a report is left out: {clean(why, 200)}")


def _printable(note: _Note) -> _Note:
    # Text for root, in one line each; files are data, and shown as such.
    cleaned: dict[str, Any] = {}
    for name in note.__struct_fields__:
        value = getattr(note, name)
        if isinstance(value, str):
            cleaned[name] = clean(value)
        elif name == "evidence":
            cleaned[name] = _evidence(value)
        elif name == "causes":
            cleaned[name] = tuple(_printable(cause) for cause in value)
    return msgspec.structs.replace(note, **cleaned)


def _evidence(values: Mapping[str, int | float | str]) -> dict[str, int | float | str]:
    return {
        clean(name): clean(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
