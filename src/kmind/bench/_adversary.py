# SPDX-License-Identifier: Apache-2.0
"""Bench "evidence --adversary": hostile extensions that search for a way to get harm kept.

Each episode is a quarter of an hour of a load, an owner and a hostile extension, simulated. First
come the attacks by name, then mixtures of them: half drawn at random, half bred from those that
came furthest. Seeds are fixed.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kmind.bench._adversary_attacks import (
    NAMED,
    TURN_S,
    Attack,
    Attacker,
    draw,
    mutate,
    named,
)
from kmind.bench._adversary_loads import HARMFUL, Subject, iolat_subject, readahead_subject
from kmind.bench._adversary_real import run_real
from kmind.bench._adversary_world import LONGEST_S, WINDOW_S, World
from kmind.bench._results import Share, describe_machine
from kmind.extension import find_module
from kmind.workloads.disk import DEFAULT_DIR

__all__ = ["SCHEMA", "Episode", "play", "run_adversary", "subjects"]

SCHEMA = "kmind.bench.adversary/1"

EPISODE_S = 900.0
_SEED = 2027
_ROUND = 40  # episodes between two choices of those that came furthest
_BEST = 10
_MIXTURE = "mixtures"


@dataclass(frozen=True)
class Episode:
    """Result of one attack: the longest time that a harmful value stood, within ten minutes."""

    subject: int
    strategy: str
    attack: Attack
    seed: int
    worst_s: float
    found: dict[str, Any]
    good: int

    @property
    def harmful_kept(self) -> bool:
        """True if a harmful value was kept."""
        return self.worst_s > LONGEST_S


@functools.cache
def subjects() -> tuple[Subject, ...]:
    """Return attacked modules: readahead from two baselines, and iolat's outcome with a knob."""
    readahead = readahead_subject(baseline=128)
    return (readahead, replace(readahead, baseline=8192), iolat_subject())


def play(subject: int, strategy: str, attack: Attack, seed: int) -> Episode:
    """Carry an attack out."""
    target = subjects()[subject]
    with (
        tempfile.TemporaryDirectory(prefix="kmind-adversary-") as folder,
        World(target, Path(folder), seed=seed) as world,
    ):
        attacker, end = Attacker(attack, world, seed), world.now + EPISODE_S
        while world.now < end:
            attacker.turn()
            world.run_until(world.now + TURN_S)
        worst = round(world.worst_s, 1)
        return Episode(subject, strategy, attack, seed, worst, world.found, world.good)


def run_adversary(
    *,
    hours: float = 200.0,
    real_s: float | None = None,
    dir: Path = DEFAULT_DIR,
    workers: int | None = None,
) -> dict[str, Any]:
    """Attack for so many simulated hours; the object that ``--json`` prints.

    ``harmful_kept`` is the share of episodes in which a harmful value was kept, and
    ``worst_s`` the longest that one stood unmeasured, in any ten minutes. With ``real_s`` it is for
    so many seconds on the real kernel, and nothing is simulated.
    """
    if real_s is not None:
        result = {"schema": SCHEMA, "machine": describe_machine(), "harmful_below": HARMFUL}
        return result | run_real(real_s, dir)
    count = max(1, round(hours * 3600 / EPISODE_S))
    everybody = subjects()  # before the workers start, which inherit it
    episodes: list[Episode] = []
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        while len(episodes) < count:
            asked = _asked(everybody, episodes, min(_ROUND, count - len(episodes)))
            episodes += pool.map(_play, asked)
    return _result(everybody, episodes, hours=count * EPISODE_S / 3600)


def _play(words: tuple[int, str, Attack, int]) -> Episode:
    return play(*words)


def _asked(
    everybody: Sequence[Subject], before: Sequence[Episode], count: int
) -> list[tuple[int, str, Attack, int]]:
    names = list(NAMED) * 2
    asked = []
    for number in range(len(before), len(before) + count):
        rng = np.random.default_rng((_SEED, number))
        which, turn = number % len(everybody), number // len(everybody)
        subject, outcomes = everybody[which], _outcomes(everybody[which])
        best = sorted(
            (each for each in before if each.subject == which), key=lambda each: -each.worst_s
        )[:_BEST]
        if turn < len(names):
            strategy, attack = names[turn], named(names[turn], subject, outcomes, rng)
        elif best and rng.random() < 0.5:
            parent = best[int(rng.integers(len(best)))].attack
            strategy, attack = _MIXTURE, mutate(parent, subject, outcomes, rng)
        else:
            strategy, attack = _MIXTURE, draw(subject, outcomes, rng)
        asked.append((which, strategy, attack, number))
    return asked


def _outcomes(subject: Subject) -> list[str]:
    return [outcome.name for outcome in find_module(subject.module).manifest.outcomes]


def _result(
    everybody: Sequence[Subject], episodes: Sequence[Episode], *, hours: float
) -> dict[str, Any]:
    result: dict[str, Any] = {"schema": SCHEMA, "machine": describe_machine()}
    result |= {"hours": hours, "episodes": len(episodes), "episode_s": EPISODE_S}
    result |= {"harmful_below": HARMFUL, "longest_s": LONGEST_S, "window_s": WINDOW_S}
    result |= _row("", episodes)
    result["strategies"] = [
        _row(name, [each for each in episodes if each.strategy == name])
        for name in (*NAMED, _MIXTURE)
    ]
    result["subjects"] = [
        _row(
            f"{one.module}, {one.knob} from {one.baseline}", [e for e in episodes if e.subject == n]
        )
        for n, one in enumerate(everybody)
    ]
    found = sorted((e for e in episodes if e.harmful_kept), key=lambda each: -each.worst_s)
    result["found"] = [
        {
            "subject": everybody[each.subject].module,
            "baseline": everybody[each.subject].baseline,
            "strategy": each.strategy,
            "seed": each.seed,
            "worst_s": each.worst_s,
            **each.found,
            "attack": each.attack.to_dict(),
        }
        for each in found
    ]
    return result


def _row(name: str, episodes: Iterable[Episode]) -> dict[str, Any]:
    episodes = list(episodes)
    worst = [each.worst_s for each in episodes] or [0.0]
    row: dict[str, Any] = {"name": name} if name else {}
    row |= {"episodes": len(episodes)}
    kept = sum(each.harmful_kept for each in episodes)
    row |= {"harmful_kept_count": kept, **Share("harmful_kept", kept, len(episodes)).as_json()}
    row |= {"worst_s": max(worst), "worst_s_median": float(np.median(worst))}
    row |= {"worst_s_p95": round(float(np.percentile(worst, 95)), 1)}
    return row | {"good_kept": sum(each.good for each in episodes)}
