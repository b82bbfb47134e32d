# SPDX-License-Identifier: Apache-2.0
"""Handlers for what one instance's extension hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kmind.extension import KnobInfo, Manifest
from kmind.knobs import Target
from kmind.runtime.experiment.module_reports import Reports
from kmind.runtime.experiment.store import EvidenceStore
from kmind.runtime.findings.handlers import FindingHandler, ReportHandler
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.sandbox.inbox import Inbox

__all__ = ["make_inbox"]


def make_inbox(
    name: str,
    manifest: Manifest,
    target: Target,
    backend: str,
    evidence: EvidenceStore,
    findings: Findings,
    knobs: Callable[[], Mapping[str, KnobInfo]],
    log: Callable[[str], None],
    now: Callable[[], float],
) -> Inbox:
    """An inbox for experiments, findings and reports. ``knobs`` are those granted, by name."""
    return Inbox(
        (
            Reports(name, manifest, target, backend, evidence, knobs, log, now),
            FindingHandler(name, manifest, target, findings, log, now),
            ReportHandler(name, manifest, target, findings, log, now),
        ),
        log,
        now,
    )
