# SPDX-License-Identifier: Apache-2.0
"""One comparison: readings of the objective become blocks of an experiment."""

from __future__ import annotations

import math

from kmind.extension import Experiment, Interval, ObjectiveEvent

from .space import Codes

__all__ = ["Trial"]

_FAR = math.log(1e-3)  # as bad as anything is said to be
_EARLY = 1.05  # a block may end that much before its time, for readings come when they come


class Trial:
    """``candidate`` against ``incumbent``. ``again``: the candidate stands already.

    ``interval`` is the effect as it stood after the last block. ``floor`` is added to each
    reading: a share of the time may be nought, and has no ratio then.
    """

    def __init__(
        self,
        incumbent: Codes,
        candidate: Codes,
        experiment: Experiment,
        *,
        settle_s: float,
        floor: float,
        again: bool = False,
    ) -> None:
        self.incumbent = incumbent
        self.candidate = candidate
        self.experiment = experiment
        self.again = again
        self.interval: Interval | None = None
        self._settle_s = settle_s
        self._floor = floor
        self._values: list[float | None] = []
        self._began = 0.0

    @property
    def want(self) -> Codes:
        """Values that the knobs need for the next block."""
        return self.candidate if self.on_candidate else self.incumbent

    @property
    def on_candidate(self) -> bool:
        """True if the next block is the candidate's."""
        return self.experiment.outcome is None and self.experiment.arm == "candidate"

    def learn(self, event: ObjectiveEvent, settled_at: float | None) -> bool:
        """Take a reading; whether a block has ended with it.

        ``settled_at`` is since when the knobs stand as wanted; what began before they had
        worked for a while counts for neither.
        """
        if settled_at is None or event.start_s < settled_at + self._settle_s:
            self._values.clear()
            return False
        if not self._values:
            self._began = event.start_s
        self._values.append(None if event.value is None else event.value + self._floor)
        if (event.end_s - self._began) * _EARLY < self.experiment.design.block_s:
            return False
        # A block with a gap in it is a gap: what is missing may be what went wrong.
        whole = [value for value in self._values if value is not None]
        missing = len(whole) < len(self._values)
        self._values.clear()
        self.experiment.learn_one(None if missing else math.fsum(whole) / len(whole))
        self.interval = self.experiment.interval
        return True

    def begin_anew(self) -> None:
        """Leave out the readings of the block so far."""
        self._values.clear()

    @property
    def log_ratio(self) -> float:
        """Logarithm of how many times better the candidate is, as far as was measured."""
        if self.interval:
            return max(_FAR, math.log(self.interval.ratio) if self.interval.ratio > 0 else _FAR)
        level = self.experiment.noise.level or 0.0
        candidate = self._mean_log("candidate", 0.0)
        incumbent = self._mean_log("incumbent", level)
        if candidate is None or incumbent is None:
            return 0.0
        ratio = candidate - incumbent
        return ratio if self.experiment.design.better == "higher" else -ratio

    @property
    def worse(self) -> bool:
        """True if the candidate is worse by more than two standard errors of the A/A noise.

        A candidate given up after a few pairs has no verdict, but can be judged by this.
        """
        sigma, pairs = self.experiment.noise.sigma, self.experiment.pairs
        return sigma is not None and pairs > 0 and self.log_ratio < -2 * sigma / math.sqrt(pairs)

    def _mean_log(self, arm: str, instead: float) -> float | None:
        values = [value for name, value in self.experiment.blocks if name == arm and value]
        values = values or [instead] * (instead > 0)
        return math.fsum(map(math.log, values)) / len(values) if values else None
