# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of writer and its neighbours."""

import numpy as np

from kmind.extension import find_module

MODULE = find_module("readahead")
FEATURES = len(MODULE.manifest.features)


def values(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << 40, (count, FEATURES))
