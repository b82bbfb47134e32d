# SPDX-License-Identifier: Apache-2.0
"""Check that a model still decides as it did when it was made.

The vectors are made from the model alone by a generator written out here, so that they are the same
everywhere and for ever. The model file holds a hash of the reference's decisions for them. Any
evaluator can be checked in the same way.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer.integer import IntModel
from kmind.infer.model_file import ModelFile
from kmind.infer.reference import Decisions, evaluate

__all__ = ["check_selftest", "digest", "digest_of", "vectors"]

_COUNT = 256


def vectors(model: IntModel, count: int = _COUNT) -> NDArray[np.int64]:
    """Return ``[count, F]`` vectors: most within the model's range, some at its ends or beyond."""
    stage = model.input
    word = _splitmix(np.arange(count * len(stage), dtype=np.uint64)).reshape(count, len(stage))
    lo, hi = stage.lo, stage.hi
    if stage.norm != "none":
        lo, hi = np.full(len(stage), -(1 << 20)), np.full(len(stage), 1 << 20)
    span = (hi - lo).astype(np.uint64) + np.uint64(1)
    span = np.where(span == 0, np.uint64(1), span)  # all 64 bits: nothing lies outside
    inside = lo + (word % span).astype(np.int64)
    kind = (word >> np.uint64(60)).astype(np.int64)
    end = np.where(kind == 0, lo, hi)
    far = word.astype(np.int64)
    result: NDArray[np.int64] = np.where(kind < 2, end, np.where(kind == 2, far, inside))
    return result


def _splitmix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, 2014), which wraps at 64 bits by design."""
    word = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(word ^ (word >> np.uint64(31)))


def digest_of(decisions: Decisions) -> str:
    """Return SHA-256, in hex, of labels, scores and probabilities as little-endian int64."""
    hashed = hashlib.sha256()
    for array in (decisions.label, decisions.score, decisions.probability):
        hashed.update(np.ascontiguousarray(array, "<i8").tobytes())
    return hashed.hexdigest()


def check_selftest(file: ModelFile) -> bool:
    """Check the model's decisions; False if the file has no record of them.

    Raises ModelError if the record says otherwise.
    """
    recorded = file.quantisation.get("selftest")
    if recorded is not None and recorded != digest(file.model):
        raise ModelError(
            "the model's decisions differ from those when it was made",
            hint="import it again with this version of kmind",
        )
    return recorded is not None


def digest(model: IntModel) -> str:
    """Return the hash of what the reference says of the model's own vectors."""
    return digest_of(evaluate(model, vectors(model)))
