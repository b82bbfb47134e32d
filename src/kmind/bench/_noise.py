# SPDX-License-Identifier: Apache-2.0
"""Made-up noise of blocks, by family; the logarithms of factors around a level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["FAMILIES", "SIGMA", "Family"]

SIGMA = 0.08
"""Noise of the log ratio of two neighbouring blocks, for independent normal ones."""

Floats = npt.NDArray[np.float64]
Family = Callable[[np.random.Generator, int], Floats]
"""Given a generator and a number of blocks: so many logarithms."""

_BLOCK = SIGMA / np.sqrt(2)
_REQUESTS = 200
_STALLED = (0.05, 0.5)


def _normal(rng: np.random.Generator, blocks: int) -> Floats:
    return rng.normal(0, _BLOCK, blocks)


def _heavy(rng: np.random.Generator, blocks: int) -> Floats:
    # Student's t with 3 degrees of freedom: the fourth moment is infinite.
    drawn: Floats = 0.75 * _BLOCK * rng.standard_t(3, blocks)
    return drawn


def _lognormal(rng: np.random.Generator, blocks: int) -> Floats:
    # The mean of some requests whose times are log-normal: skewed, and noisier than the rest.
    means: Floats = np.log(rng.lognormal(0, 1, (blocks, _REQUESTS)).mean(axis=1))
    return means


def _autoregressive(rho: float) -> Family:
    def family(rng: np.random.Generator, blocks: int) -> Floats:
        shocks = rng.normal(0, np.sqrt(1 - rho * rho), blocks)
        shocks[0] = rng.normal()
        for index in range(1, blocks):
            shocks[index] += rho * shocks[index - 1]
        drawn: Floats = _BLOCK * shocks
        return drawn

    return family


def _drift(rng: np.random.Generator, blocks: int) -> Floats:
    # Slower and slower, by 40% in the end.
    return _normal(rng, blocks) + np.linspace(0, np.log(0.6), blocks)


def _walk(rng: np.random.Generator, blocks: int) -> Floats:
    walk: Floats = 0.8 * _normal(rng, blocks) + np.cumsum(rng.normal(0, 0.03, blocks))
    return walk


def _two_states(rng: np.random.Generator, blocks: int, enter: float, leave: float) -> Floats:
    state, states = rng.random() < enter / (enter + leave), np.empty(blocks)
    for index in range(blocks):
        state = rng.random() >= leave if state else rng.random() < enter
        states[index] = state
    return states


def _regimes(rng: np.random.Generator, blocks: int) -> Floats:
    # The level falls to 70% for a while, some 30 blocks, and comes back.
    low = _two_states(rng, blocks, 0.03, 0.03)
    drawn: Floats = 0.8 * _normal(rng, blocks) + np.log(0.7) * low
    return drawn


def _bursts(rng: np.random.Generator, blocks: int) -> Floats:
    # Every sixth block lies in a burst, in which the noise is almost six times as large.
    return _normal(rng, blocks) * (0.7 + 3.3 * _two_states(rng, blocks, 0.05, 0.25))


def _stalls(rng: np.random.Generator, blocks: int) -> Floats:
    # One block in fifty makes 5% to 50% of what it should.
    stalled = rng.random(blocks) < 0.02
    return _normal(rng, blocks) + np.where(stalled, np.log(rng.uniform(*_STALLED, blocks)), 0)


def _periodic(rng: np.random.Generator, blocks: int) -> Floats:
    # Every second block is 10% faster: arms that simply take turns would be fooled.
    return _normal(rng, blocks) + 0.1 * (np.arange(blocks) % 2)


FAMILIES: dict[str, Family] = {
    "normal": _normal,
    "heavy tails": _heavy,
    "log-normal": _lognormal,
    "AR(1) 0.3": _autoregressive(0.3),
    "AR(1) 0.6": _autoregressive(0.6),
    "AR(1) 0.8": _autoregressive(0.8),
    "drift": _drift,
    "random walk": _walk,
    "regimes": _regimes,
    "bursts": _bursts,
    "stalls": _stalls,
    "periodic": _periodic,
}
