# SPDX-License-Identifier: Apache-2.0
"""Hooks that are attached only while there is something to see.

A hook on a path that is hot even when nothing is amiss costs its readers some 70 ns
each time, most of it before the program's first instruction. Where the manifest says
``while``, a cheaper hook's counter decides whether it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmind.agent.protocol import Agent, AgentHooks
from kmind.extension import Manifest
from kmind.knobs import Target

__all__ = ["QUIET_S", "HookGating", "lost_hooks", "silent_hooks"]

QUIET_S = 2.0
"""Seconds that the counter must stay below before the hook is detached again."""

_LATE_S = 5.0  # a look that detaches it may come so much later


def lost_hooks(manifest: Manifest, target: Target, hooks: AgentHooks) -> list[str]:
    """A line for each hook that the kernel lacks, or that never runs here, or sees less."""
    costs = {hook.program: hook.costs for hook in manifest.hooks}
    lines = [
        f"hook {hook} is missing: {why}; {costs.get(hook, '')}"
        for hook, why in hooks.missing().items()
    ]
    lines += [
        f"hook {hook.program} is at {other.function or other.tracepoint} instead, "
        f"for this kernel cannot run it at {hook.tracepoint}; {other.loses}"
        for hook, other in manifest.replacements(hooks.replaced())
        if other.loses
    ]
    return lines + silent_hooks(manifest, target)


def silent_hooks(manifest: Manifest, target: Target) -> list[str]:
    """For each hook that never runs on such a target, a line that says so and what it costs.

    A disk without a queue of its own hands its requests to others as they come (dm, md, zram,
    the head of NVMe multipath: bio-based, block/blk-mq-sysfs.c), and none of ``block_rq_*`` is
    called for it.
    """
    if target.kind != "block":
        return []
    folder = target.root / "sys/block" / target.name
    if not folder.is_dir() or (folder / "mq").exists():
        return []
    below = sorted(path.name for path in folder.glob("slaves/*"))
    advice = f"; name a disk below it: {', '.join(below)}" if below else ""
    return [
        f"hook {hook.program} never runs on {target.name}, which has no request queue of its own "
        f"(as dm, md and zram){advice}; {hook.costs}"
        for hook in manifest.hooks
        if hook.tracepoint.startswith("block_rq_")
    ]


@dataclass
class _Watched:
    program: str
    column: int
    above: float  # a second
    total: int = 0
    busy_at: float = float("-inf")


class HookGating:
    """Attaches and detaches an agent's deferred hooks. Call ``look`` at a steady pace."""

    def __init__(self, manifest: Manifest, agent: Agent) -> None:
        self._agent = agent
        self._looked_at: float | None = None
        self._watched = [
            _Watched(hook.program, manifest.columns[hook.while_.feature], hook.while_.above)
            for hook in manifest.hooks
            if hook.while_
        ]

    def poll(self, now: float, *, quiet: bool = False, keep: bool = False) -> None:
        """Compare each counter with what it was at the last look; ``now`` is in seconds.

        ``quiet`` says that no counter has moved since, by the agent's own count.
        With ``keep`` none is detached: an experiment counts with them.
        """
        if (
            quiet
            and self._looked_at is not None
            and not any(now - hook.busy_at < QUIET_S + _LATE_S for hook in self._watched)
        ):
            self._looked_at = now
            return
        seconds = None if self._looked_at is None else max(now - self._looked_at, 1e-3)
        # Hooks that an earlier owner attached are needed, until the counter says otherwise.
        standing = self._agent.hooks.attached() if seconds is None else ()
        self._looked_at = now
        for hook in self._watched:
            total = self._agent.feature(hook.column)
            attached = hook.program in standing or (
                keep and hook.program in self._agent.hooks.attached()
            )
            busy = seconds is not None and (total - hook.total) / seconds > hook.above
            if busy or attached:
                hook.busy_at = now
            hook.total = total
            self._agent.hooks.watch(hook.program, now - hook.busy_at < QUIET_S)
