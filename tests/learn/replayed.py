# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of replay and its neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kmind.extension import find_module
from kmind.learn.recording import Recording
from kmind.testing.recordings import made_records, made_windows, write_recording

if TYPE_CHECKING:
    pass

MODULE = find_module("readahead")
FEATURES = len(MODULE.manifest.features)


def made(path: Path, **changed: Any) -> Recording:
    values = np.random.default_rng(3).integers(0, 99, (20, FEATURES))
    return write_recording(path, MODULE, made_windows(values), made_records(500, 20), **changed)
