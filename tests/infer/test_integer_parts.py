# SPDX-License-Identifier: Apache-2.0
"""The parts of integer models refuse what could overflow."""

import numpy as np
import pytest

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp
from kmind.infer.integer_parts import Input, Layer, Output, Step


def test_what_could_overflow_is_refused() -> None:
    one, zero = np.ones(1, np.int32), np.zeros(1, np.int64)
    far = np.array([2**62])
    with pytest.raises(ModelError, match="32 bits"):
        Input(zero, far, zero, zero, one, np.zeros(1, np.int32))
    with pytest.raises(ModelError, match="64 bits"):
        Input(zero, far, zero, zero, one * 9, one * 62)
    stage = Input(zero, zero + 32767, zero, zero, one, np.zeros(1, np.int32))
    wide = np.full((1, 1), 32767, np.int16)
    with pytest.raises(ModelError, match="64 bits"):
        IntMlp(
            stage,
            (
                Layer(wide, np.array([2**45]), Step(2**30, 0, 40, 0, 1)),
                Layer(wide, np.array([0])),
            ),
            Output("value"),
        )
    with pytest.raises(ModelError, match="0 to 32767"):
        IntMlp(
            Input(zero - 1, zero, zero, zero, one, np.zeros(1, np.int32)),
            (Layer(wide, zero),),
            Output("value"),
        )
