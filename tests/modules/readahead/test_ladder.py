# SPDX-License-Identifier: Apache-2.0
"""The order in which values are tried."""

from kmind.modules.readahead.ladder import AGAIN_S, LONGEST_S, Ladder


def test_a_ladder_takes_coarse_steps_first() -> None:
    ladder = Ladder(16, 0, 8192, grid=4)
    assert list(ladder.next(8192, 0.0)) == [16, 2048, 4096]
    ladder.kept(16, 8192, 0.0)
    assert list(ladder.next(16, 0.0)) == [4, 64, 8, 32]
    ladder.tried(4, 0.0)
    assert list(ladder.next(16, 1.0)) == [64, 8, 32]
    assert list(ladder.next(16, AGAIN_S)) == [4, 64, 8, 32]
    ladder.tried(4, AGAIN_S)  # in vain again: it waits for twice as long
    assert 4 not in list(ladder.next(16, AGAIN_S + 2 * AGAIN_S - 1))
    assert 4 in list(ladder.next(16, AGAIN_S + 2 * AGAIN_S))
    for _ in range(20):
        ladder.tried(4, AGAIN_S)
    assert 4 in list(ladder.next(16, AGAIN_S + LONGEST_S))
    ladder.kept(64, 16, 0.0)
    assert next(ladder.next(8192, 1.0)) == 64
    assert list(ladder.next(64, 1.0)) == [256, 128, 32]


def test_a_ladder_that_only_goes_up() -> None:
    assert list(Ladder(4096, 4, 8192, grid=4, up=True).next(128, 0.0)) == [4096, 512, 256]
    assert list(Ladder(4096, 4, 8192, grid=4, up=True).next(8192, 0.0)) == []
