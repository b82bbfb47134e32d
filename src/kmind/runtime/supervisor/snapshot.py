# SPDX-License-Identifier: Apache-2.0
"""One look at the instances for all who ask in one round of the owner."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from kmind.agent.core.core import Core
from kmind.errors import KmindError
from kmind.queue import open_tables
from kmind.runtime.supervisor.arbiter import Arbiter
from kmind.runtime.supervisor.member import Member

__all__ = ["Snapshot"]


class Snapshot:
    """Cached data of ``status``, ``leases`` and ``fill``; each change calls ``forget``."""

    def __init__(self, core: Core, members: Mapping[str, Member], arbiter: Arbiter) -> None:
        self._core = core
        self._members = members
        self._arbiter = arbiter
        self._rows: dict[str, dict[str, Any]] = {}
        self._leases: list[dict[str, Any]] | None = None
        self._fill: dict[str, dict[str, int]] = {}

    def forget(self) -> None:
        """Look again the next time."""
        self._rows.clear()
        self._leases = None
        self._fill = {}

    def row(self, member: Member) -> dict[str, Any]:
        """One instance, its leases among it."""
        name = member.instance.name
        if name not in self._rows:
            self._rows[name] = member.instance.status() | {
                "slot": member.slot,
                "generation": member.agent.generation,
                "grants": member.agent.admission.fill()._asdict(),
                "tables": _tables(member),
                "leases": [held for held in self.leases() if held["holder"] == name],
            }
        return self._rows[name]

    def leases(self) -> list[dict[str, Any]]:
        """All leases that are held."""
        if self._leases is None:
            self._leases = self._arbiter.leases()
        return self._leases

    def fill(self) -> dict[str, dict[str, int]]:
        """Return the fill levels of the tables that all instances share: ``used`` and ``size``."""
        if not self._fill:
            self._fill = {name: fill._asdict() for name, fill in self._core.fill().items()}
        return self._fill


def _tables(member: Member) -> dict[str, dict[str, int]]:
    # An agent that was adopted may be of an earlier version of the module: other tables.
    fill = {}
    for part in member.instance.module.manifest.tables:
        with suppress(KmindError):
            table = open_tables(member.agent.table_fds, [part.shape])[part.name]
            fill[part.name] = asdict(table.fill())
    return fill
