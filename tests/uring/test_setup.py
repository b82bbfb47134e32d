# SPDX-License-Identifier: Apache-2.0
"""Flags are found by trying: a kernel that knows fewer has a ring all the same."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from uring.rings import ids, results

from kmind.errors import NotSupportedError
from kmind.uring import Ring, Setup, _setup, _syscall, prepare

REAL = _syscall.setup
DEFER = Setup.SINGLE_ISSUER | Setup.DEFER_TASKRUN


def older(monkeypatch: pytest.MonkeyPatch, unknown: Setup) -> None:
    """Have the kernel refuse these flags, as one that is older does."""

    def setup(entries: int, params: np.ndarray) -> int:
        if int(params["flags"][0]) & unknown:
            return -errno.EINVAL
        return REAL(entries, params)

    monkeypatch.setattr(_syscall, "setup", setup)


@pytest.mark.parametrize(
    ("unknown", "lacking"),
    [
        (Setup.NO_SQARRAY, Setup.NO_SQARRAY),
        (Setup.NO_SQARRAY | Setup.DEFER_TASKRUN, Setup.NO_SQARRAY | DEFER),
        (Setup.NO_SQARRAY | DEFER | Setup.COOP_TASKRUN, DEFER | Setup.COOP_TASKRUN),
        (Setup.NO_SQARRAY | DEFER | Setup.COOP_TASKRUN | Setup.SUBMIT_ALL, Setup.SUBMIT_ALL),
    ],
)
def test_rings_of_older_kernels_do_the_same(
    monkeypatch: pytest.MonkeyPatch, unknown: Setup, lacking: Setup
) -> None:
    older(monkeypatch, unknown)
    with Ring(8) as ring:
        assert not ring.flags & lacking
        for turn in range(20):
            made = prepare.nop(np.arange(5) + 5 * turn)
            made["opcode"][1] = 255
            ring.push(made)
            ring.submit()
            assert not ring.pending, "without SUBMIT_ALL the kernel stops after a bad one"
            found = results(ring, 5)
            assert found.pop(5 * turn + 1) == -errno.EINVAL
            assert sorted(found) == [5 * turn + index for index in (0, 2, 3, 4)]
        assert ring.in_flight == 0


def test_the_best_is_taken_where_it_is_known() -> None:
    with Ring(8) as ring:
        known = ring.flags
    for tried in _setup._TRIES:
        params = np.zeros(1, _syscall.PARAMS)
        params["flags"] = int(tried)
        fd = REAL(8, params)
        if fd >= 0:
            _syscall.os.close(fd)
            assert known == tried
            return
    pytest.fail("no flags are known")


def test_large_entries_are_refused_where_they_are_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older(monkeypatch, Setup.SQE128)
    with pytest.raises(NotSupportedError, match="128 bytes") as refused:
        Ring(8, big_sqe=True)
    assert "\n" not in str(refused.value)
    with Ring(8) as ring:
        ring.push(prepare.nop(ids(1)))
        assert results(ring, 1) == {1: 0}


def test_features_that_are_lacking_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def setup(entries: int, params: np.ndarray) -> int:
        fd = REAL(entries, params)
        params["features"] &= ~np.uint32(_setup.Feature.EXT_ARG)
        return fd

    monkeypatch.setattr(_syscall, "setup", setup)
    with pytest.raises(NotSupportedError, match="lacks EXT_ARG"):
        Ring(8)
