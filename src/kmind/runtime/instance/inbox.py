# SPDX-License-Identifier: Apache-2.0
"""Handlers for what one instance's extension hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kmind.extension import KnobInfo
from kmind.runtime.experiment.module_reports import ModuleReports
from kmind.runtime.findings.handlers import FindingHandler, ReportHandler
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.sandbox.inbox import Inbox
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["make_inbox"]


def make_inbox(
    spec: InstanceSpec,
    services: Services,
    knobs: Callable[[], Mapping[str, KnobInfo]],
) -> Inbox:
    """An inbox for experiments, findings and reports. ``knobs`` are those granted, by name."""
    findings = services.findings or Findings(None, services.emit)
    log, now = services.logger(spec.name), services.now
    who = spec.name, spec.manifest, spec.target
    return Inbox(
        (
            ModuleReports(spec, services, knobs),
            FindingHandler(*who, findings, log, now),
            ReportHandler(*who, findings, log, now),
        ),
        log,
        now,
    )
