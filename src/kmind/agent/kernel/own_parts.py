# SPDX-License-Identifier: Apache-2.0
"""Programs and maps that a module's object has of its own."""

from __future__ import annotations

from kmind.agent.kernel.generation import Generation

__all__ = ["OwnParts"]


class OwnParts:
    """Programs and maps that the module's object has of its own."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def run(self, program: str, ctx: bytes) -> bytes:
        """Run a syscall program of the module's own; its context afterwards."""
        return self._generation.programs[program].test_run(ctx).ctx

    def map_fd(self, name: str) -> int:
        """The descriptor of a map of the module's own."""
        return self._generation.maps[name].fd
