# SPDX-License-Identifier: Apache-2.0
"""Windows of readahead drawn at random, and models that decide by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import find_module
from kmind.infer import Feature, ModelFile, from_sklearn, quantise
from kmind.learn.models import make_model
from kmind.modules.readahead.recipe import COLUMNS, columns_of

FEATURES = find_module("readahead").manifest.columns
CLASSES = ("16", "128", "1024", "8192")


def random_windows(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Counters of windows, shape (count, features): from nothing at all to a great deal."""
    rng = np.random.default_rng(seed)
    shape = count, len(FEATURES)
    drawn = rng.integers(0, 1 << 20, shape) >> rng.integers(0, 21, shape)
    times = np.ones(len(FEATURES), np.int64)
    for name in ("device_bytes", "device_ns", "stride_pages", "stride_spread"):
        times[FEATURES[name]] = 4096
    return np.asarray(drawn * times)


def random_rows(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the inputs of a decision on random windows."""
    kb = np.random.default_rng(seed).choice([0, 4, 16, 128, 1024, 8192], count)
    return np.asarray(columns_of(random_windows(count, seed), FEATURES, kb))


def made_model(family: Any, seed: int = 0) -> ModelFile:
    """A model for such rows, learnt from a rule that is too simple to be true."""
    x = random_rows(3000, seed)
    rule = x[:, [c.name for c in COLUMNS].index("in_order")]
    y = (rule > 100).astype(int) + (rule > 500) + (x[:, 6] > 150)
    fitted = make_model(family, seed).fit(x[:2000], y[:2000])
    features = [Feature(c.name, c.unit) for c in COLUMNS]
    return quantise(from_sklearn(fitted), x[:2000], features=features, limit=100)
