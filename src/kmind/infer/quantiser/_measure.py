# SPDX-License-Identifier: Apache-2.0
"""Quality of a model: balanced accuracy for labels, R squared for values; 1 is perfect."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError

__all__ = ["balanced_accuracy", "label_numbers", "r_squared"]


def balanced_accuracy(truth: NDArray[np.int64], label: NDArray[np.int64]) -> float:
    """Return the mean over the classes that occur of the share of their rows labelled so."""
    return float(np.mean([(label[truth == kind] == kind).mean() for kind in np.unique(truth)]))


def r_squared(truth: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    """Return the share of the variance that is explained; 0 where there is none."""
    spread = float(((truth - truth.mean(axis=0)) ** 2).sum())
    return 1.0 - float(((truth - value) ** 2).sum()) / spread if spread else 0.0


def label_numbers(classes: tuple[str, ...], labels: Any) -> NDArray[np.int64]:
    """Return each label's place among the classes; raises ModelError for one that is not there."""
    place = {name: number for number, name in enumerate(classes)}
    try:
        return np.array(
            [place[_class(label, place)] for label in np.asarray(labels).tolist()], np.int64
        )
    except KeyError as error:
        known = ", ".join(classes)
        raise ModelError(
            f"the label {error.args[0]!r} is not one of the model's classes ({known})"
        ) from None


def _class(label: object, place: dict[str, int]) -> str:
    # Tables write the class 1 as 1.0 or True, too.
    word = str(label)
    if word in place:
        return word
    truth = {"true": "1", "false": "0"}.get(word.lower(), word)
    try:
        whole = str(int(float(truth))) if float(truth).is_integer() else word
    except ValueError:
        return word
    return whole if whole in place else word
