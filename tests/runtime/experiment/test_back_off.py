# SPDX-License-Identifier: Apache-2.0
"""Putting off what showed no gain."""

from kmind.runtime.experiment.back_off import BackOff


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.back_off = BackOff(lambda: self.now)

    def waits(self, key: object) -> float:
        """Postpone it, and return how long it is refused."""
        began = self.now
        self.back_off.postpone(key)
        while self.back_off.refusal(key, "it did not help"):
            self.now += 1.0
        return self.now - began


def test_each_wait_is_twice_as_long_up_to_an_hour() -> None:
    clock = Clock()
    waits = [clock.waits("a") for _ in range(9)]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert clock.waits("b") == 30


def test_refusal_says_what_happened_and_how_long_to_wait() -> None:
    clock = Clock()
    clock.back_off.postpone("a")
    clock.now += 10
    said = "16 showed no gain 10 s ago: it is not tried again for 20 s"
    assert clock.back_off.refusal("a", "16 showed no gain") == said
    assert clock.back_off.refusal("b", "32 showed no gain") == ""


def test_what_is_forgotten_begins_anew() -> None:
    clock = Clock()
    assert [clock.waits("a") for _ in range(3)] == [30, 60, 120]
    assert "a" in clock.back_off
    clock.back_off.forget("a")
    assert "a" not in clock.back_off
    assert clock.waits("a") == 30


def test_the_one_that_was_put_off_first_makes_room() -> None:
    clock = Clock()
    for key in range(256):
        clock.back_off.postpone(key)
    clock.back_off.postpone(0)  # is known, and needs none
    assert all(key in clock.back_off for key in range(256))
    clock.back_off.postpone(256)
    assert 1 not in clock.back_off
    assert all(key in clock.back_off for key in (0, 2, 256))
