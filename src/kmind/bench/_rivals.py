# SPDX-License-Identifier: Apache-2.0
"""Other methods' decisions on the same blocks: for comparison, and used by nothing else."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["mixture_t_keeps", "peeking_t_keeps"]

Floats = npt.NDArray[np.float64]

_FIRST = 3
_PRIOR = 1.0  # variance of the effect in sigmas, before the first pair


def peeking_t_keeps(differences: Floats) -> bool:
    """Student's 95% interval, looked at after each pair from the third, as if only once.

    ``differences`` are log ratios of pairs, above 0 if the candidate was better.
    """
    for count in range(_FIRST, len(differences) + 1):
        part = differences[:count]
        half = _quantile(count - 1) * part.std(ddof=1) / math.sqrt(count)
        if part.mean() > half:
            return True
    return False


def mixture_t_keeps(differences: Floats, level: float) -> bool:
    """A sequential t test by mixture, valid at any time for independent normal pairs.

    Lai 1976; Wang and Ramdas 2023, "Anytime-valid t-tests and confidence sequences", with a
    normal prior of variance 1 on the effect in sigmas. ``level`` is that of the one side.
    """
    count = np.arange(1, len(differences) + 1)
    total, squares = np.cumsum(differences), np.cumsum(differences**2) + 1e-12
    left = squares - total**2 / (count + 1 / _PRIOR)
    log_e = 0.5 * (np.log(1 / _PRIOR / (count + 1 / _PRIOR)) + count * np.log(squares / left))
    return bool(np.any((log_e >= math.log(1 / (2 * level))) & (total > 0)))


def _quantile(freedom: int) -> float:
    # Student's 97.5% point, by its expansion around the normal one (Abramowitz and Stegun
    # 26.7.5); within 0.5% from three degrees of freedom on, 3% too low for two.
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom) ** (power + 1) for power, term in enumerate(terms))
