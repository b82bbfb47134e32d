# SPDX-License-Identifier: Apache-2.0
"""Handlers for what one instance's extension hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kmind.classes import EXPERIMENTS, FINDINGS, REPORTS, find_class
from kmind.extension import KnobInfo
from kmind.runtime.experiment.module_reports import ModuleReports
from kmind.runtime.findings.handlers import FindingHandler, ReportHandler
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.sandbox.inbox import Handler, Inbox
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["make_inbox"]


def make_inbox(
    spec: InstanceSpec,
    services: Services,
    knobs: Callable[[], Mapping[str, KnobInfo]],
) -> Inbox:
    """An inbox for what the module's class hands over. ``knobs`` are those granted, by name."""
    findings = services.findings or Findings(None, services.emit)
    log, now = services.logger(spec.name), services.now
    who = spec.name, spec.manifest, spec.target
    gets = find_class(spec.manifest.class_).services
    handlers: list[Handler] = []
    if EXPERIMENTS in gets:
        handlers.append(ModuleReports(spec, services, knobs))
    if FINDINGS in gets:
        handlers.append(FindingHandler(*who, findings, log, now))
    if REPORTS in gets:
        handlers.append(ReportHandler(*who, findings, log, now))
    return Inbox(handlers, log, now)
