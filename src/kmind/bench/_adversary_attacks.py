# SPDX-License-Identifier: Apache-2.0
"""Attacks of a hostile extension: those seen, each by name, and any mixture of them.

The attacker is assumed to know everything: the load, the current arm, the table of the loads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kmind.abi import layout
from kmind.bench._adversary_loads import Subject
from kmind.bench._adversary_world import World
from kmind.queue.layout import window_view

__all__ = ["NAMED", "TURN_S", "Attack", "Attacker", "draw", "mutate", "named"]

TURN_S = 0.25
"""Time between two turns of the extension. What it burns it decides whenever a block begins."""

CONTEXTS = ("none", "same", "fresh", "load", "bait")
DODGES = ("none", "other", "baseline", "let go")
FORGES = ("none", "seq", "head", "deaf", "scribble")
BURNS = ("none", "incumbent", "candidate", "always", "paid back", "in lumps")


@dataclass(frozen=True)
class Attack:
    """One way to attack; times in seconds.

    ``goal`` is the load under which ``value`` is harmful, ``bait`` one that comes before it, in
    turns of ``bait_s`` and ``goal_s``; "" for none. ``outcome`` is what it says it is to be judged
    by, ``context`` how it names the circumstances. After ``dodge_s`` it does what ``dodge`` says,
    for ``gap_s``, to put a recheck off. ``forge`` is what it writes into the arena, ``touch``
    whether it does by itself what is counted, ``flood`` how many recommendations it makes besides,
    a turn. ``burn`` is when it takes ``share`` of a CPU; "paid back": under the incumbent, and as
    much in all in the wash-outs before the candidate's blocks; "in lumps": as much in all in few of
    those blocks. ``hold_s`` is what it asks for, ``renew_s`` how often it recommends.
    """

    goal: str
    value: int
    bait: str = ""
    bait_s: float = 300.0
    goal_s: float = 600.0
    outcome: str = ""
    context: str = "none"
    dodge: str = "none"
    dodge_s: float = 55.0
    gap_s: float = 1.0
    other: int = 0
    forge: str = "none"
    burn: str = "none"
    share: float = 0.2
    touch: bool = False
    flood: int = 0
    hold_s: float = 10.0
    renew_s: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


NAMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "lying outcome": {"outcome": "!"},
    "contexts that change": {"context": "fresh"},
    "context reused": {"context": "same", "bait": "!", "dodge": "other"},
    "other before recheck": {"bait": "!", "context": "same", "dodge": "other", "dodge_s": 50.0},
    "baseline before recheck": {"bait": "!", "context": "load", "dodge": "baseline"},
    "let go before recheck": {"bait": "!", "context": "same", "dodge": "let go", "hold_s": 3.0},
    "remembered elsewhere": {"bait": "!", "context": "bait", "bait_s": 600.0, "goal_s": 900.0},
    "forged seq": {"bait": "!", "forge": "seq"},
    "forged head": {"bait": "!", "forge": "head"},
    "windows unread": {"bait": "!", "forge": "deaf"},
    "scribbled arena": {"bait": "!", "forge": "scribble"},
    "touching pages": {"touch": True},
    "burning under the incumbent": {"burn": "incumbent"},
    "burning a little": {"burn": "incumbent", "share": 0.02},
    "burning under the candidate": {"burn": "candidate", "bait": "!"},
    "burning, and paid back": {"burn": "paid back", "share": 0.3},
    "burning, and in lumps": {"burn": "in lumps"},
    "flooding": {"flood": 8, "context": "fresh"},
    "long holds": {"bait": "!", "hold_s": 3600.0, "renew_s": 1000.0},
}
"""The attacks seen or thought of. "!" stands for any that fits the subject and the value."""


def named(name: str, subject: Subject, outcomes: list[str], rng: np.random.Generator) -> Attack:
    """One of ``NAMED``, with one of the ten worst values under one load."""
    base = _goal(subject, rng)
    words = dict(NAMED[name])
    baits = _baits(subject, base.value, base.goal)
    if words.get("bait") == "!":
        words["bait"] = str(rng.choice(baits)) if baits else ""
    if words.get("outcome") == "!":
        words["outcome"] = str(rng.choice(outcomes))
    return replace(base, other=_other(subject, base, rng), **words)


def draw(subject: Subject, outcomes: list[str], rng: np.random.Generator) -> Attack:
    """Any mixture."""
    base = _goal(subject, rng)
    baits = ["", *_baits(subject, base.value, base.goal)]
    return replace(
        base,
        bait=str(rng.choice(baits)),
        bait_s=float(rng.choice([60, 120, 300, 900])),
        goal_s=float(rng.choice([120, 300, 600, 1200])),
        outcome=str(rng.choice(["", "nonsense", *outcomes])),
        context=str(rng.choice(CONTEXTS)),
        dodge=str(rng.choice(DODGES)),
        dodge_s=float(rng.choice([5, 20, 50, 55, 58, 100])),
        gap_s=float(rng.choice([0.3, 1, 3, 10])),
        other=_other(subject, base, rng),
        forge=str(rng.choice(FORGES)),
        burn=str(rng.choice(BURNS)),
        share=float(rng.choice([0.01, 0.02, 0.029, 0.05, 0.1, 0.2])),
        touch=bool(rng.random() < 0.3),
        flood=int(rng.choice([0, 0, 0, 1, 8])),
        hold_s=float(rng.choice([1, 5, 10, 60, 600, 3600])),
        renew_s=float(rng.choice([0.25, 0.5, 1, 2, 5])),
    )


def mutate(
    attack: Attack, subject: Subject, outcomes: list[str], rng: np.random.Generator
) -> Attack:
    """The same, with some of it drawn anew; load, value and bait go together."""
    fresh = draw(subject, outcomes, rng).to_dict()
    together = ("goal", "value", "bait")
    changed = {n: v for n, v in fresh.items() if n not in together and rng.random() < 0.25}
    if rng.random() < 0.25:
        changed |= {name: fresh[name] for name in together}
    return replace(attack, **changed)


def _goal(subject: Subject, rng: np.random.Generator) -> Attack:
    loads = [load for load in subject.loads if len(subject.harmful(load)) >= 10]
    load = str(rng.choice(loads))
    worst = sorted(subject.harmful(load), key=lambda value: subject.ratio(load, value))[:10]
    return Attack(load, int(rng.choice(worst)))


def _baits(subject: Subject, value: int, goal: str) -> list[str]:
    return [load for load in subject.loads if load != goal and value in subject.better(load)]


def _other(subject: Subject, base: Attack, rng: np.random.Generator) -> int:
    values = [v for v in subject.loads[base.goal] if v not in (base.value, subject.baseline)]
    return int(rng.choice(values))


class Attacker:
    """Carries an attack out on a world. Call ``turn`` every ``TURN_S``."""

    def __init__(self, attack: Attack, world: World, seed: int) -> None:
        self._attack = attack
        self._world = world
        self._rng = np.random.default_rng((seed, 3))
        self._began = world.now
        self._made = 0
        self._renew_at = 0.0
        self._stood = 0.0
        self._gap_until = 0.0
        geometry = world.agent.geometry
        ring = geometry.rings + geometry.nr_cpus * layout.RING.itemsize
        self._ring = world.agent.arena[ring:][: layout.RING.itemsize].view(layout.RING)
        self._windows = window_view(world.agent.arena, geometry)
        plan = world.plan
        self._block_s, self._owed, self._burnt_at = plan.block_s, 0.0, world.now
        self._arm: str | None = None
        self._washing = False
        self._payback = plan.block_s / plan.wash_out_s if plan.wash_out_s else 0.0
        world.noticed = self._burn

    def turn(self) -> None:
        """Do what is due."""
        attack, world = self._attack, self._world
        self._change_load()
        self._forge()
        arm = world.measuring
        self._burn()
        if attack.touch and world.value == attack.value:
            world.touch(10_000)
        for _ in range(attack.flood):
            self._recommend(int(self._rng.choice(list(world.subject.loads[attack.goal]))))
        self._aim(arm)

    def _burn(self) -> None:
        # Called whenever an arm or a block may have begun; what was burnt until now is owed.
        attack, world = self._attack, self._world
        if attack.burn == "none":
            return
        passed, self._burnt_at = world.now - self._burnt_at, world.now
        self._owed += world.burn * passed * (1 if self._arm == "incumbent" else -1)
        arm, share = world.measuring, 0.0
        begins = (arm, world.washing) != (self._arm, self._washing)
        self._arm, self._washing = arm, world.washing
        if attack.burn in ("always", arm):
            share = attack.share
        elif attack.burn == "paid back" and arm is not None:
            if arm == "incumbent" and not world.washing:
                share = attack.share
            elif arm == "candidate" and world.washing:
                share = attack.share * self._payback
        elif attack.burn == "in lumps" and not world.washing:
            if arm == "incumbent":
                share = attack.share
            elif arm == "candidate":
                lump = self._owed >= self._block_s if begins else world.burn > 0
                share = float(lump)
        world.burn = min(share, 1.0)

    def _aim(self, arm: str | None) -> None:
        attack, now = self._attack, self._world.now
        stands = arm is None and self._world.value == attack.value
        self._stood = self._stood + TURN_S if stands else 0.0
        if now < self._gap_until:
            return
        if attack.dodge != "none" and self._stood >= attack.dodge_s:
            self._stood = 0.0
            self._gap_until = now + attack.gap_s
            if attack.dodge == "other":
                self._recommend(attack.other)
            elif attack.dodge == "baseline":
                self._recommend(self._world.subject.baseline)
            else:
                self._gap_until = now + attack.hold_s + attack.gap_s
            return
        if now >= self._renew_at:
            self._renew_at = now + attack.renew_s
            self._recommend(attack.value)

    def _change_load(self) -> None:
        attack, world = self._attack, self._world
        world.load = attack.goal
        if attack.bait:
            at = (world.now - self._began) % (attack.bait_s + attack.goal_s)
            world.load = attack.bait if at < attack.bait_s else attack.goal

    def _recommend(self, value: int) -> None:
        attack = self._attack
        self._made += 1
        evidence: dict[str, Any] = {}
        if attack.outcome:
            evidence["outcome"] = attack.outcome
        context = {
            "same": "x",
            "fresh": f"context {self._made}",
            "load": self._world.load,
            "bait": attack.bait or attack.goal,
        }.get(attack.context)
        if context:
            evidence["context"] = context
        self._world.recommend(value, evidence, attack.hold_s)

    def _forge(self) -> None:
        windows, forge = self._world.endpoint.windows, self._attack.forge
        if forge not in ("deaf", "scribble"):
            windows.release(len(windows.peek()))
        if forge == "seq":
            self._windows["seq"] = (1 << 32) - 1
        elif forge == "head":
            self._ring["head"] = 1 << 31
        elif forge == "scribble":
            self._windows["seq"] = self._rng.integers(0, 1 << 32, len(self._windows))
            self._windows["value"] = 1 << 60
            self._ring["head"] = int(self._rng.integers(0, 1 << 32))
