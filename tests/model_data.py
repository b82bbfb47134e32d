# SPDX-License-Identifier: Apache-2.0
"""Numbers to train small models on: integers as an agent counts them, and what they mean."""

import numpy as np

NAMES = ("depth", "latency", "drift", "bytes")


def features(rows: int = 1200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            rng.integers(0, 64, rows),
            rng.lognormal(8, 1, rows).astype(int),
            rng.integers(-300, 300, rows),
            rng.integers(0, 1 << 20, rows),
        ],
        axis=1,
    ).astype(float)


def values(x: np.ndarray) -> np.ndarray:
    return x[:, 0] / 32 + np.log1p(x[:, 1]) * np.sign(x[:, 2]) / 8 + x[:, 3] / 2**20


def labels(x: np.ndarray, classes: int) -> np.ndarray:
    z = values(x)
    return np.digitize(z, np.quantile(z, np.linspace(0, 1, classes + 1)[1:-1]))
