# SPDX-License-Identifier: Apache-2.0
"""A class of modules as a record, and the services that a class can give its instances.

The records name no code, so that the manifest below and the runtime above both go by them. What
runs a service is made in ``kmind.runtime.instance.class_services``, its contract tests are in
``kmind.testing.contract``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "DEVICE",
    "EXPERIMENTS",
    "FINDINGS",
    "KNOBS",
    "MODELS",
    "OBJECTIVE",
    "REPORTS",
    "SERVICES",
    "ModuleClass",
    "ServiceKind",
]


@dataclass(frozen=True)
class ServiceKind:
    """A service that only instances of some classes get.

    ``parts`` are the keys of a manifest that ask for it, ``lacks`` ends the sentence
    "a reporter ..." for a class without it, and ``checks`` are its contract tests by name.
    """

    name: str
    parts: tuple[str, ...]
    lacks: str
    checks: tuple[str, ...] = ()


KNOBS = ServiceKind(
    "knobs",
    parts=("knob", "chosen_by"),
    lacks="sets no knobs",
    checks=("recommendations", "reasons"),
)
"""Knobs are granted, and approved values set and held."""

EXPERIMENTS = ServiceKind(
    "experiments",
    parts=("outcome", "guard", "circumstance", "evidence"),
    lacks="makes no experiments",
)
"""Values are measured before they stay; experiments of the module itself are kept on record."""

OBJECTIVE = ServiceKind("objective", parts=("objective",), lacks="has no objective")
"""The owner polls a number to be made better."""

MODELS = ServiceKind("models", parts=("model", "train"), lacks="has no model now")
"""Models are trained for it, and deployed to slots of its agent."""

FINDINGS = ServiceKind(
    "findings", parts=("finding",), lacks="hands over no findings", checks=("findings",)
)
"""Findings are opened, kept and closed."""

REPORTS = ServiceKind(
    "reports", parts=("report",), lacks="hands over no reports", checks=("reports",)
)
"""Reports are kept."""

DEVICE = ServiceKind("device", parts=("driver",), lacks="serves no device")
"""A device is made, served by the extension, and ended; the agent is that of its kind."""

SERVICES = (KNOBS, EXPERIMENTS, OBJECTIVE, MODELS, FINDINGS, REPORTS, DEVICE)
"""All kinds, in the order in which a manifest is checked."""


@dataclass(frozen=True)
class ModuleClass:
    """A class of modules: ``help`` says in a sentence what they do.

    ``services`` are those that its instances get beside what all have; the rest of a manifest is
    open to every class. ``own_checks`` are contract tests of this class alone, by name.
    """

    name: str
    help: str
    services: tuple[ServiceKind, ...]
    own_checks: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys that its manifest may hold, beside those of every class."""
        return tuple(part for service in self.services for part in service.parts)

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of its contract tests, beside those of every class."""
        return (*(name for service in self.services for name in service.checks), *self.own_checks)
