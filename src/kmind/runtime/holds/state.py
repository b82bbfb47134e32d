# SPDX-License-Identifier: Apache-2.0
"""A hold, as a daemon writes it down for the next one."""

from __future__ import annotations

import msgspec

__all__ = ["HoldState"]


class HoldState(msgspec.Struct, frozen=True, kw_only=True):
    """A knob that stands at a recommended value until ``until_ns`` on CLOCK_MONOTONIC.

    ``change`` is the journal's number of the first change of the hold, ``value`` what
    stands, ``rec_id`` the recommendation that it stands for.
    """

    knob: str
    until_ns: int
    change: int
    rec_id: int
    value: int | str
