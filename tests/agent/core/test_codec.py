# SPDX-License-Identifier: Apache-2.0
"""Structs of the core object as Python reads and writes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.agent.core.codec import (
    HOLDER,
    Approved,
    Claim,
    CoreInstance,
    Lease,
    counters,
    grant_key,
    text,
)
from kmind.errors import KmindError

U32 = st.integers(0, 2**32 - 1)


@given(
    knob=U32,
    target=U32,
    slot=st.integers(0, HOLDER),
    priority=st.integers(0, 255),
    expires_ms=st.integers(0, 2**40 - 1),
)
def test_lease_is_unpacked(
    knob: int, target: int, slot: int, priority: int, expires_ms: int
) -> None:
    row = np.zeros(1, layout.LEASE)
    # As include/kmind/lease.h packs it: the key is kept inverted, so that 0 is a free place.
    row["key"] = (target << 32 | knob) ^ (2**64 - 1)
    row["word"] = expires_ms << 24 | priority << 16 | slot
    row["denied"] = 7
    assert Lease.read(row[0]) == Lease(knob, target, slot, priority, expires_ms / 1000, 7)


def test_claim_is_true_if_it_was_taken() -> None:
    assert Claim(taken=True, holder=1, previous=0)
    assert not Claim(taken=False, holder=2, previous=0)


def test_approved_is_unpacked() -> None:
    row = np.zeros(1, layout.APPROVED)
    for number, name in enumerate(Approved._fields, 1):
        row[name] = number
    assert Approved.read(row.tobytes()) == Approved(1, 2, 3, 4, 5)


def test_grant_key_has_the_kernels_layout() -> None:
    packed = np.frombuffer(grant_key(3, 4), layout.GRANT_KEY)
    assert packed[0].item() == (3, 4)


def test_instance_with_bytes_that_are_no_text() -> None:
    row = np.zeros(1, layout.INSTANCE)
    row["name"], row["module"] = b"readahead@\xff", b"readahead"
    row["mode"], row["held"] = layout.MODE["AUTO"], 2
    found = CoreInstance.read(row[0])
    assert (found.name, found.module, found.mode) == ("readahead@\ufffd", "readahead", "auto")
    assert found.held == 2
    row["mode"] = 255
    assert CoreInstance.read(row[0]).mode == ""


def test_counters_name_each_verdict() -> None:
    row = np.zeros(1, layout.ACCOUNT)
    row["verdicts"][0][layout.VERDICT["RANGE"]] = 9
    found = counters(row[0])
    assert found["verdict_range"] == 9
    verdicts = {name for name in found if name.startswith("verdict_")}
    assert len(verdicts) == sum(code != 0 for code in layout.VERDICT.values())


@pytest.mark.parametrize("value", ["", "x" * 16, "a\0b", "é" * 8])
def test_text_that_does_not_fit(value: str) -> None:
    with pytest.raises(KmindError, match="1 to 15 bytes of text"):
        text(value, 16, "name")


def test_text_that_fits() -> None:
    assert text("x" * 15, 16, "name") == b"x" * 15
