# SPDX-License-Identifier: Apache-2.0
"""Steps with inverses: all of them, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import KmindError, UndoError
from kmind.util.steps import Step, run_steps


class Machine:
    """Switches, some of which fail: before they move, or after."""

    def __init__(self, count: int) -> None:
        self.on = [False] * count
        self.undone: list[int] = []

    def steps(self, bad: int, *, moved: bool, stuck: frozenset[int] = frozenset()) -> list[Step]:
        def do(number: int) -> None:
            self.on[number] = number != bad or moved
            if number == bad:
                raise KmindError(f"switch {number} is broken")

        def undo(number: int) -> None:
            self.undone.append(number)
            if number in stuck:
                raise OSError("stuck")
            self.on[number] = False

        def step(number: int) -> Step:
            return Step(f"switch {number}", lambda: do(number), lambda: undo(number))

        return [step(number) for number in range(len(self.on))]


@given(count=st.integers(1, 9), bad=st.integers(0, 9), moved=st.booleans())
def test_all_steps_are_made_or_none(count: int, bad: int, moved: bool) -> None:
    machine = Machine(count)
    steps = machine.steps(bad, moved=moved)
    if bad >= count:
        run_steps(steps)
        assert all(machine.on)
        assert not machine.undone
        return
    with pytest.raises(KmindError, match=f"switch {bad} is broken"):
        run_steps(steps)
    assert not any(machine.on)
    assert machine.undone == list(range(bad, -1, -1))


def test_an_inverse_that_fails_is_said_and_the_others_run() -> None:
    machine = Machine(4)
    steps = machine.steps(2, moved=True, stuck=frozenset({1}))
    with pytest.raises(UndoError, match=r"switch 2 is broken; .* undoing switch 1: stuck"):
        run_steps(steps)
    assert machine.on == [False, True, False, False]
