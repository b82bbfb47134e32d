# SPDX-License-Identifier: Apache-2.0
"""Rings of a controller in the window, with the other side played by the test."""

import ctypes

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kmind.driver.nvme.layout import COMPLETION, NAMESPACE, PAGE, SUBMISSION
from kmind.driver.nvme.queues import QueuePair


class Controller:
    """Takes commands up to the doorbell, and answers as many as it is told to, in its own order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.commands = np.zeros(size, SUBMISSION)
        self.answers = np.zeros(size, COMPLETION)
        self.doorbells = ctypes.c_uint32(0), ctypes.c_uint32(0)
        self.taken: list[int] = []
        self.head = self.tail = 0
        self.phase = 1

    def take(self) -> None:
        while self.head != self.doorbells[0].value:
            self.taken.append(int(self.commands["id"][self.head]))
            self.head = (self.head + 1) % self.size

    def answer(self, count: int, chance: np.random.Generator) -> list[int]:
        done = []
        for _ in range(min(count, len(self.taken))):
            # A ring is full with one entry left: that would look like an empty one.
            if (self.tail + 1) % self.size == self.doorbells[1].value:
                break
            done.append(self.taken.pop(int(chance.integers(len(self.taken)))))
            entry = self.answers[self.tail]
            entry["id"], entry["status"] = done[-1], self.phase
            self.tail = (self.tail + 1) % self.size
            if not self.tail:
                self.phase = 1 - self.phase
        return done


@given(
    size=st.integers(2, 9),
    steps=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60),
    seed=st.integers(0, 2**32),
)
def test_every_command_is_answered_once(size: int, steps: list[tuple[int, int]], seed: int) -> None:
    controller, chance = Controller(size), np.random.default_rng(seed)
    pair = QueuePair(controller.commands, controller.answers, controller.doorbells)
    assert len(pair) == size
    out: set[int] = set()
    number = 0
    for more, count in steps:
        commands = np.zeros(min(more, size - 1 - len(out)), SUBMISSION)
        commands["id"] = range(number, number + len(commands))
        number += len(commands)
        if len(commands):
            pair.submit(commands)
        out |= set(commands["id"].tolist())
        controller.take()
        assert set(controller.taken) <= out
        answered = controller.answer(count, chance)
        assert pair.reap()["id"].tolist() == answered
        assert set(answered) <= out
        out -= set(answered)
    assert set(controller.taken) == out


def test_entries_have_the_sizes_of_the_specification() -> None:
    assert (SUBMISSION.itemsize, COMPLETION.itemsize, NAMESPACE.itemsize) == (64, 16, PAGE)
    assert SUBMISSION.fields is not None
    assert SUBMISSION.fields["page"][1] == 24
    assert SUBMISSION.fields["word"][1] == 40
    assert COMPLETION.fields is not None
    assert COMPLETION.fields["status"][1] == 14
