# SPDX-License-Identifier: Apache-2.0
"""What goes into a model: names, units and scales of the features, in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError

__all__ = ["Feature", "schema_hash", "to_raw"]

_Text = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
_LARGEST = 2.0**63


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature: ``unit`` is that of the agent's integer, before scaling.

    A model is trained on ``integer * scale``: an agent that counts nanoseconds and a training
    set in milliseconds meet with ``unit="ns", scale=1e-6``.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
    unit: _Text = ""
    scale: Annotated[float, msgspec.Meta(gt=0, le=1e30)] = 1.0


def schema_hash(features: Sequence[Feature]) -> bytes:
    """SHA-256 (32 bytes) of names and units in their order: what an agent must offer."""
    rows = [[feature.name, feature.unit] for feature in features]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).digest()


def to_raw(features: Sequence[Feature], table: Any) -> NDArray[np.int64]:
    """Return the agent's integers ``[n, F]`` for a table of the numbers that a model is trained on.

    ``table`` is a pandas frame, whose columns are taken by name, or an array ``[n, F]``. A number
    that is missing, or does not fit in 64 bits, is an error.
    """
    if hasattr(table, "columns"):
        missing = [feature.name for feature in features if feature.name not in table.columns]
        if missing:
            raise ModelError(f"the table lacks the feature {missing[0]!r}")
        table = table[[feature.name for feature in features]].to_numpy()
    try:
        array = np.asarray(table)
        if array.ndim == 2 and array.dtype.kind == "i" and all(f.scale == 1 for f in features):
            raw = array.astype(np.int64)
        else:
            array = array.astype(np.float64)
            raw = np.zeros(0, np.int64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the table holds what is no number: {error}") from None
    if array.ndim != 2 or array.shape[1] != len(features):
        raise ModelError(f"the table has the shape {array.shape}, not (n, {len(features)})")
    if array.dtype.kind == "f":
        scaled = np.rint(array / np.array([feature.scale for feature in features]))
        if not (np.abs(scaled) < _LARGEST).all():
            raise ModelError("the table holds numbers that are missing, or too large for 64 bits")
        raw = scaled.astype(np.int64)
    return raw
