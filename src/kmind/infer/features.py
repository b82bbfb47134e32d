# SPDX-License-Identifier: Apache-2.0
"""Inputs of a model: names, units and scales of the features, in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError

__all__ = ["Feature", "schema_hash", "to_array", "to_raw"]

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


def to_array(features: Sequence[Feature], table: Any) -> NDArray[np.float64]:
    """Return the numbers ``[n, F]`` of a table: a pandas frame, by name, or an array.

    A column that is missing, or a value that is no finite number, is a ModelError.
    """
    if hasattr(table, "columns"):
        missing = [feature.name for feature in features if feature.name not in table.columns]
        if missing:
            raise ModelError(f"the table lacks the feature {missing[0]!r}")
        table = table[[feature.name for feature in features]].to_numpy()
    try:
        array = np.asarray(table, np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the table has a value that is not a number: {error}") from None
    if array.ndim != 2 or array.shape[1] != len(features):
        raise ModelError(f"the table has the shape {array.shape}, not (n, {len(features)})")
    if not np.isfinite(array).all():
        raise ModelError("the table holds numbers that are missing or not finite")
    return array


def to_raw(features: Sequence[Feature], table: Any) -> NDArray[np.int64]:
    """Return the agent's integers ``[n, F]`` for a table of what a model is trained on.

    Values beyond 53 bits are rounded on the way; those beyond 64 are a ModelError.
    """
    array = to_array(features, table)
    scaled = np.rint(array / np.array([feature.scale for feature in features]))
    if not (np.abs(scaled) < _LARGEST).all():
        raise ModelError("the table holds numbers too large for 64 bits")
    raw: NDArray[np.int64] = scaled.astype(np.int64)
    return raw
