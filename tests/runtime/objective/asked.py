# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of sources and its neighbours."""

from collections.abc import Callable

import pytest

from kmind.knobs import Target
from kmind.runtime.objective.sources import GapError, Objective

SYSTEM = Target.system()


def never() -> bool:
    return False


def gap(objective: Objective, cancelled: Callable[[], bool] = never) -> tuple[str, str]:
    with pytest.raises(GapError) as caught:
        objective.ask(cancelled)
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)
