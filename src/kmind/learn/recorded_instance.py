# SPDX-License-Identifier: Apache-2.0
"""An instance that is recorded, and what its files say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kmind.agent.protocol import Agent
from kmind.extension import Manifest, Module, Value
from kmind.knobs import Target
from kmind.learn.meta import Clock, GrantFor, Host, Meta, Stream
from kmind.runtime.holds.grants import Granted

__all__ = ["RecordedInstance"]


@dataclass(frozen=True)
class RecordedInstance:
    """A module bound to a target, with its agent, and what the recorder knows beside.

    ``granted`` are its knobs, ``tags`` the recorder's words, and ``sweep`` the values that a knob
    is moved through meanwhile.
    """

    module: Module
    target: Target
    params: Mapping[str, Value]
    agent: Agent
    granted: list[Granted]
    window_s: float
    tags: Mapping[str, str] = field(default_factory=dict)
    sweep: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    host: Host = field(default_factory=Host.here)
    clock: Clock = field(default_factory=Clock.here)

    @property
    def name(self) -> str:
        """Name of the instance, such as ``readahead@vda``."""
        return f"{self.manifest.name}@{self.target.name}"

    @property
    def manifest(self) -> Manifest:
        """The module's manifest."""
        return self.module.manifest

    @property
    def usable(self) -> list[Granted]:
        """Those of the knobs that can be set on the target."""
        return [granted for granted in self.granted if granted.usable]

    def meta(self, stream: Stream, table: str = "") -> Meta:
        """Return the metadata of a stream's file; ``table`` names that of a table's rows."""
        manifest = self.manifest
        return Meta(
            instance=self.name,
            module=manifest.name,
            version=manifest.version,
            target=self.target.name,
            stream=stream,
            tables=manifest.tables,
            table=table,
            features=manifest.features,
            kinds=manifest.records,
            params=dict(self.params),
            knobs={granted.knob.name: granted.info() for granted in self.usable},
            grants=tuple(
                GrantFor(knob=e.key[0], target=e.key[1], grant=e.grant()) for e in self.granted
            ),
            host=self.host,
            clock=self.clock,
            window_s=self.window_s,
            backend=self.agent.backend,
            missing=dict(self.agent.hooks.missing()),
            tags=dict(self.tags),
            sweep=dict(self.sweep),
        )
