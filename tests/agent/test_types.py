# SPDX-License-Identifier: Apache-2.0
"""Enumerations of the agent's records hold what the kernel's headers do."""

from enum import IntEnum

import pytest

from kmind.abi import layout
from kmind.agent.types import Cause, Grant, Kind, Mode, Rule, Verdict


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Mode, layout.MODE),
        (Verdict, layout.VERDICT),
        (Kind, layout.KIND),
        (Cause, layout.CAUSE),
    ],
)
def test_names_and_numbers_are_the_headers(kind: type[IntEnum], names: dict[str, int]) -> None:
    assert {each.name: each.value for each in kind} == names


def test_grant_is_unbounded_but_for_its_range() -> None:
    grant = Grant(minimum=1, maximum=9, current=4)
    assert (grant.step, grant.step_percent, grant.grid, grant.interval_ns) == (0, 0, 0, 0)
    assert grant.rules == ()


def test_grants_with_the_same_rules_are_equal() -> None:
    one, other = (Grant(1, 9, 4, rules=(Rule("<", 2),)) for _ in range(2))
    assert one == other
    assert one != Grant(1, 9, 4, rules=(Rule("<=", 2),))
