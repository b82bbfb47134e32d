# SPDX-License-Identifier: Apache-2.0
"""A keeper of findings with a clock of the test's own, and the handlers of one instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmind.events import Event
from kmind.extension import Context, Given, Manifest, Outlets
from kmind.extension.manifest.manifest import FindingPart, ReportPart
from kmind.knobs import Target
from kmind.runtime.findings.handlers import FindingHandler, ReportHandler
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.sandbox.inbox import Inbox
from kmind.workloads.simulated_disk import make_disk_files

__all__ = ["Owner", "manifest", "reporter"]


def manifest(name: str = "sample", **more: Any) -> Manifest:
    """A module's whose ``slow`` opens at once and closes after a minute."""
    fields: dict[str, Any] = {
        "version": "1",
        "class_": "detector",
        "description": "d",
        "author": "a",
        "licence": "l",
        "agent": {"object": "x.bpf.c"},
        "extension": {"entry": "extension:X"},
        "target": {"kind": "block"},
        "findings": (
            FindingPart(
                name="slow",
                help="h",
                severity="warning",
                score="Times as slow.",
                unit="1",
                critical_from=10.0,
            ),
            FindingPart(name="late", help="h", severity="info", score="s", opens_after_s=30.0),
        ),
    }
    return Manifest(name=name, **fields | more)


def reporter(name: str = "sample") -> Manifest:
    """A module's that files reports of failures."""
    kinds = (ReportPart(name="failure", help="h", keep_days=2.0),)
    return manifest(name, class_="reporter", findings=(), reports=kinds)


class Owner:
    """The keeper and one instance on a disk, which is made in a folder or given.

    ``context`` speaks to it as an extension's does.
    """

    def __init__(
        self,
        path: Path | None,
        disk: Path | Target,
        made: Manifest | None = None,
        *,
        clock: float = 1e9,
    ) -> None:
        self.clock = clock
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.log: list[str] = []
        self.findings = Findings(path, self._emit, now=lambda: self.clock)
        self.manifest = made or manifest()
        self.target = disk if isinstance(disk, Target) else make_disk_files(disk)
        words = (
            f"{self.manifest.name}@{self.target.name}", self.manifest, self.target, self.findings,
            self.log.append, lambda: self.clock,
        )  # fmt: skip
        self.finding, self.report = FindingHandler(*words), ReportHandler(*words)
        self.inbox = Inbox([self.finding, self.report], self.log.append, lambda: self.clock)
        self.context = Context(
            Given(
                module=self.manifest.name,
                target=self.target.name,
                params={},
                features={},
                knobs={},
                findings=[part.name for part in self.manifest.findings],
                reports=[part.name for part in self.manifest.reports],
            ),
            Outlets(port=None, now=lambda: self.clock, hand_over=self.hand_over),
        )

    def _emit(self, event: Event) -> None:
        self.events.append((event.name, event.fields()))

    def hand_over(self, kind: str, text: bytes) -> None:
        """Give it what a context sends."""
        handler = self.report if kind == "report" else self.finding
        handler.handle(kind, text)

    def slow(self, score: float = 2.0, **more: Any) -> None:
        """Hand over the finding, as if by a new process that has said nothing yet."""
        self.context._found_at.clear()
        self.context.finding("slow", title="It is slow.", score=score, **more)

    def clear(self, part: str = "") -> None:
        """Say that it is gone, even if nothing was found."""
        self.context._found_at["slow", part] = 0.0
        self.context.clear_finding("slow", part=part)

    def wait(self, seconds: float) -> None:
        """Let the time pass, with a look each second."""
        until = self.clock + seconds
        while self.clock < until:
            self.clock = min(self.clock + 1, until)
            self.findings.poll()

    @property
    def states(self) -> list[str]:
        """States that were told, in order, of all findings."""
        return [fields["state"] for event, fields in self.events if event == "finding"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All findings."""
        return self.findings._store.findings()

    @property
    def reports(self) -> list[dict[str, Any]]:
        """All reports."""
        return self.findings._store.reports()
