# SPDX-License-Identifier: Apache-2.0
"""Attacks of the adversary: drawn, changed, named."""

from typing import Any

import numpy as np
import pytest

from kmind.bench import _adversary as adversary
from kmind.bench._adversary_attacks import NAMED, Attack, draw, mutate, named


def test_attacks_fit_their_subject() -> None:
    rng = np.random.default_rng(1)
    for subject in adversary.subjects():
        outcomes = ["one", "two"]
        for name in NAMED:
            made = named(name, subject, outcomes, rng)
            assert made.value in subject.harmful(made.goal)
        for _ in range(50):
            made = mutate(draw(subject, outcomes, rng), subject, outcomes, rng)
            assert made.value in subject.harmful(made.goal)
            assert not made.bait or subject.ratio(made.bait, made.value) > 1


STEPS = "mapped, in steps"
# Found in 200 hours, before pages that come in were asked whether they are used, and before what
# stands was measured against the baseline: each was kept for some ten minutes of ten.
FOUND: list[tuple[int, int, dict[str, Any]]] = [
    (0, 216, {"goal": STEPS, "value": 768, "context": "fresh", "forge": "deaf", "hold_s": 600.0,
              "renew_s": 5.0}),
    (0, 1, {"goal": STEPS, "value": 256}),
    (0, 1, {"goal": STEPS, "value": 16384}),
    (1, 535, {"goal": "read, in order", "value": 20, "bait": STEPS, "bait_s": 300.0,
              "goal_s": 1200.0, "context": "fresh", "dodge": "other", "dodge_s": 58.0, "gap_s": 0.3,
              "other": 40, "burn": "always", "share": 0.01, "hold_s": 600.0, "renew_s": 5.0}),
    (1, 658, {"goal": "read, in order", "value": 8, "bait": STEPS, "bait_s": 60.0, "goal_s": 120.0,
              "context": "load", "dodge_s": 50.0, "gap_s": 0.3, "other": 40, "forge": "deaf",
              "burn": "in lumps", "share": 0.029, "hold_s": 3600.0, "renew_s": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "seed", "words"), FOUND, ids=lambda each: str(each)[:4])
def test_an_attack_that_was_found_keeps_nothing(
    subject: int, seed: int, words: dict[str, Any]
) -> None:
    made = adversary.play(subject, "mixtures", Attack(**words), seed)
    assert not made.harmful_kept, made
