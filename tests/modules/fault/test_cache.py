# SPDX-License-Identifier: Apache-2.0
"""Flushed data is never lost; other data may be, but no sector is ever made up."""

import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import UsageError
from kmind.modules.fault.cache import VolatileCache

SECTOR, SECTORS = 512, 16
KINDS = ("write", "fua", "flush", "cut", "read")
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(0, SECTORS - 1), st.integers(1, 6), st.integers(1, 255)
    ),
    max_size=40,
)


class Medium:
    """The store: it never loses anything by itself."""

    def __init__(self) -> None:
        self.data = bytearray(SECTOR * SECTORS)
        self.synced = 0
        self.full = False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "full")
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None:
        self.synced += 1

    def sectors(self) -> list[int]:
        """The byte that fills each sector."""
        found = []
        for at in range(0, len(self.data), SECTOR):
            sector = self.data[at : at + SECTOR]
            assert sector == sector[:1] * SECTOR, "a sector is torn"
            found.append(sector[0])
        return found


def run(
    operations: list[tuple[str, int, int, int]], seed: int, limit: int
) -> tuple[list[int], list[str]]:
    """Do operations, and check each against sets of what a sector may hold after a cut."""
    medium, random = Medium(), np.random.default_rng(seed)
    cache = VolatileCache(medium, limit=limit)
    now, may = [0] * SECTORS, [{0} for _ in range(SECTORS)]
    choices = []
    for kind, first, count, fill in [*operations, ("cut", 0, 1, 1)]:
        count = min(count, SECTORS - first)
        places = range(first, first + count)
        if kind in ("write", "fua"):
            cache.write(first * SECTOR, bytes([fill]) * (count * SECTOR), fua=kind == "fua")
            for place in places:
                now[place] = fill
                may[place] = {fill} if kind == "fua" else may[place] | {fill}
        elif kind == "flush":
            cache.flush()
            may = [{fill} for fill in now]
            assert cache.size == 0
        elif kind == "cut":
            choices.append(cache.cut(random).choice)
            kept = medium.sectors()
            assert all(one in allowed for one, allowed in zip(kept, may, strict=True))
            now, may = kept, [{fill} for fill in kept]
        assert cache.size <= limit
        read = bytearray(medium.data[first * SECTOR : (first + count) * SECTOR])
        if cache.covers(first * SECTOR, count * SECTOR):
            cache.read(first * SECTOR, read)
        assert read == b"".join(bytes([now[place]]) * SECTOR for place in places)
    return medium.sectors(), choices


@given(OPERATIONS, st.integers(0, 2**32), st.sampled_from([0, 3 * SECTOR, 1 << 20]))
def test_no_sequence_loses_what_was_flushed(
    operations: list[tuple[str, int, int, int]], seed: int, limit: int
) -> None:
    first = run(operations, seed, limit)
    assert run(operations, seed, limit) == first, "the same seed, another end"


def test_cuts_lose_tear_and_reorder() -> None:
    seen, choices = set(), set()
    for seed in range(300):
        medium = Medium()
        cache = VolatileCache(medium)
        cache.write(0, b"\1" * (4 * SECTOR))
        cache.write(8 * SECTOR, b"\2" * SECTOR)
        report = cache.cut(np.random.default_rng(seed))
        choices.add(report.choice)
        found = medium.sectors()
        kept = sum(found[:4]) + found[8] // 2
        assert (report.kept, report.lost) == (kept, 5 - kept)
        assert report.torn == (0 < sum(found[:4]) < 4)
        seen.add((tuple(found[:4]), found[8]))
    nothing, everything = (0,) * 4, (1,) * 4
    for end in ((nothing, 0), (everything, 2), (everything, 0), (nothing, 2)):
        assert end in seen  # the last: the later one alone
    assert any(0 < sum(first) < 4 for first, _ in seen)
    assert len(choices) == 8


def test_a_write_that_did_not_reach_a_full_store_is_there_still() -> None:
    medium = Medium()
    cache = VolatileCache(medium)
    cache.write(0, b"\1" * SECTOR)
    medium.full = True
    with pytest.raises(OSError, match="full"):
        cache.flush()
    assert cache.covers(0, SECTOR)
    medium.full = False
    cache.flush()
    assert medium.sectors()[0] == 1
    assert medium.synced == 1


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (512, 100), (-512, 512)])
def test_parts_of_sectors_are_refused(offset: int, length: int) -> None:
    with pytest.raises(UsageError, match="no whole sectors"):
        VolatileCache(Medium()).write(offset, bytes(length))


@pytest.mark.parametrize("sector", [0, 100, 513])
def test_odd_sectors_are_refused(sector: int) -> None:
    with pytest.raises(UsageError, match="cannot have sectors"):
        VolatileCache(Medium(), sector=sector)


def test_a_forced_write_is_in_the_store_at_once() -> None:
    medium = Medium()
    cache = VolatileCache(medium)
    cache.write(0, b"\1" * SECTOR)
    cache.write(SECTOR, b"\2" * SECTOR, fua=True)
    assert medium.sectors()[:2] == [0, 2]
    assert medium.synced == 1
