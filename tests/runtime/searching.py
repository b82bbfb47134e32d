# SPDX-License-Identifier: Apache-2.0
"""Autotune itself in front of the owner that confirms: admission, changes and evidence are real.

Only the machine is made up: plain files, and an objective that depends on what they hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.confirmed import TICK_S, Owner, Worth

from kmind.agent.sim.agent import SimDoorbell
from kmind.agent.types import Kind
from kmind.extension import Context, Dispatcher, Given, Outlets
from kmind.modules.autotune.extension import Autotune
from kmind.queue import Endpoint
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.objective.sources import Heard

__all__ = ["Search"]

_LOAD = {"requests": 2000, "reads": 1000}


class Search(Owner):
    """One search; ``lines`` is what it logs. ``checked`` is whether the owner confirms anything:
    without it exploring has no end, as a search without an owner that looks."""

    def __init__(self, folder: Path, worth: Worth, *, checked: bool = True, **words: Any) -> None:
        super().__init__(folder, worth, **words)
        self.cares = False  # the extension does itself
        self.lines: list[str] = []
        if not checked:
            self.confirm._standing.exploring.longest_s = self.confirm._standing.exploring.left_s = (
                1e9
            )
        budget = OwnerBudget(lambda: self.now, cpu=lambda: 0.0)
        self._verdicts = Verdicts(
            "autotune@sim0", self.services, self.changes, self.confirm, budget
        )
        endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        self._columns = self.module.manifest.columns
        self.context = Context(
            Given(
                module="autotune",
                target="sim0",
                params=self.params,
                features=self._columns,
                knobs={each.knob.name: each.info() for each in self.changes.knobs.usable()},
            ),
            Outlets(port=endpoint.cq, now=lambda: self.now, write_log=self.lines.append),
        )
        self.extension = Autotune(self.context)
        self._dispatcher = Dispatcher(endpoint, self.extension, self.context)
        self._dispatcher.start()
        hear = self._hear

        def pass_on(heard: Heard) -> None:
            hear(heard)
            span_ms = round(1000 * (heard.end_s - heard.start_s))
            if heard.value is None:
                self.agent.notify(Kind.NO_OBJECTIVE, span_ms, 1)
            else:
                self.agent.notify(Kind.OBJECTIVE, span_ms, round(heard.value * 1e6))

        self._hear = pass_on

    def step(self) -> None:
        """A tick of time, the extension's turn in it."""
        for name, rate in _LOAD.items():
            self.agent.count(self._columns[name], round(rate * TICK_S))
        super().step()
        self._dispatcher.step(0)
        for action in self.agent.poll(0):
            self._verdicts.handle(action)
