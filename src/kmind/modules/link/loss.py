# SPDX-License-Identifier: Apache-2.0
"""Loss of packets: each by itself, or in bursts.

Packets have one draw each, in their order, so it makes no difference how they come in batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Bursts", "Independent", "Loss", "Losses"]

_Mask = npt.NDArray[np.bool_]


class Losses(Protocol):
    """The part of a path that loses packets."""

    def lose(self, count: int) -> _Mask:
        """Of the next ``count`` packets, those that are lost."""


@dataclass(frozen=True)
class Loss:
    """Shares of packets that are lost, from 0 to 1: the model of Gilbert and Elliott.

    A path is good or bad. Before each packet it turns bad with probability ``turns_bad``, if it was
    good, and good with ``turns_good``, if it was bad; ``good`` and ``bad`` are the shares that it
    loses meanwhile. So a burst lasts 1 / ``turns_good`` packets in the mean. With ``turns_bad`` 0
    each packet is lost by itself, with probability ``good``.

    Source: E. O. Elliott, "Estimates of error rates for codes on burst-noise channels" (1963); as
    netem's ``loss gemodel p r 1-h 1-k``.
    """

    good: float = 0.0
    turns_bad: float = 0.0
    turns_good: float = 1.0
    bad: float = 1.0

    def __post_init__(self) -> None:
        for name in ("good", "turns_bad", "turns_good", "bad"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(f"loss: {name} is {value!r}; it is a share, from 0 to 1")
        if self.turns_bad and not self.turns_good:
            raise ValueError("loss: turns_good is 0; a path that turned bad would stay so")

    @property
    def mean(self) -> float:
        """The share that is lost in the long run."""
        share = self.turns_bad / (self.turns_bad + self.turns_good) if self.turns_bad else 0.0
        return (1 - share) * self.good + share * self.bad

    def start(self, seed: np.random.SeedSequence) -> Losses:
        """Losses of one path, from its beginning: good."""
        return Bursts(self, seed) if self.turns_bad else Independent(self.good, seed)


class Independent:
    """Each packet is lost with the same probability."""

    def __init__(self, share: float, seed: np.random.SeedSequence) -> None:
        self._share = share
        self._random = np.random.default_rng(seed)

    def lose(self, count: int) -> _Mask:
        """Of the next ``count`` packets, those that are lost."""
        if not self._share:
            return np.zeros(count, np.bool_)
        return self._random.random(count) < self._share


class Bursts:
    """Packets are lost by the state of the path."""

    def __init__(self, loss: Loss, seed: np.random.SeedSequence) -> None:
        self._loss = loss
        packets, states = seed.spawn(2)
        self._random = np.random.default_rng(packets)
        self._states = np.random.default_rng(states)
        self._is_bad = False
        self._left = self._stay() - 1  # it may turn before the first packet, too

    def lose(self, count: int) -> _Mask:
        """Of the next ``count`` packets, those that are lost."""
        share = np.empty(count)
        done = 0
        while done < count:
            if not self._left:
                self._is_bad = not self._is_bad
                self._left = self._stay()
                continue
            part = min(self._left, count - done)
            share[done : done + part] = self._loss.bad if self._is_bad else self._loss.good
            self._left -= part
            done += part
        return self._random.random(count) < share

    def _stay(self) -> int:
        # Packets until the state turns, by inversion: 1 if it turns before the next one.
        turn = self._loss.turns_good if self._is_bad else self._loss.turns_bad
        if turn >= 1:
            return 1
        return max(math.ceil(math.log1p(-self._states.random()) / math.log1p(-turn)), 1)
