# SPDX-License-Identifier: Apache-2.0
"""The hooks of an agent in the kernel."""

from __future__ import annotations

from collections.abc import Mapping

from kmind.agent.kernel.generation import Generation

__all__ = ["KernelHooks"]


class KernelHooks:
    """The programs that are attached to hooks of the kernel, or may be."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._closed = False

    def watch(self, program: str, wanted: bool) -> None:
        """Attach or detach one of the deferred hooks."""
        generation = self._generation
        if program in generation.choice.missing:
            return
        name = generation.choice.chosen.get(program, program)
        if wanted == generation.is_attached(name):
            return
        if wanted:
            generation.attach(name)
        else:
            generation.detach(name)

    def attached(self) -> Mapping[str, int]:
        """The hooks that are attached: name to program id."""
        generation = self._generation
        if self._closed:
            return {}
        hook_of = generation.choice.hook_of
        return {hook_of(name): number for name, number in generation.attached().items()}

    def missing(self) -> Mapping[str, str]:
        """The optional hooks that could not be attached: name to cause."""
        return dict(self._generation.choice.missing)

    def replaced(self) -> Mapping[str, str]:
        """The hooks whose work an alternative does: name to that program's."""
        return self._generation.choice.replaced

    def close(self) -> None:
        """Say from now on that none is attached, as the agent is closed."""
        self._closed = True
