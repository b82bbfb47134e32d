# SPDX-License-Identifier: Apache-2.0
"""Readings of disks in the order of time: what has grown, and when somebody is to be told.

Each reason is told once, and again only when its count has doubled; nobody is told the same twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kmind.health.smart.identity import Identities
from kmind.health.smart.judge import RANK, Judgement, Reason, judge
from kmind.health.smart.record import SmartRecord

__all__ = ["GROWN", "Followed", "Follower"]

GROWN = 10
"""Errors of the link that come to be a reason. Those from before the first reading are none: the
counters never go back, and a cable is soon replaced."""

_LINK = {"crc_errors": "transfers with a wrong checksum", "command_timeouts": "commands timed out"}


class Followed(NamedTuple):
    """One reading: its disk, its state, and what to tell now (empty: nothing)."""

    disk: str
    judgement: Judgement
    alert: str


@dataclass(slots=True)
class _Disk:
    told: dict[str, int] = field(default_factory=dict)
    link: dict[str, int] = field(default_factory=dict)


class Follower:
    """Takes records in the order of time. Its memory grows with the number of disks alone.

    The order is that in which they are given: the clock of a host may jump.
    """

    def __init__(self) -> None:
        self._identities = Identities()
        self._disks: dict[str, _Disk] = {}

    def see(self, record: SmartRecord) -> Followed:
        """The reading's disk, state and alert."""
        name = self._identities.name(record)
        disk = self._disks.setdefault(name, _Disk())
        judgement = _with_link(judge(record), record, disk)
        news = [each for each in judgement.reasons if _is_news(each, disk)]
        for each in news:
            disk.told[each.key] = max(each.value, disk.told.get(each.key, 0))
        news.sort(key=lambda each: -RANK[each.state])
        return Followed(name, judgement, "; ".join(each.text for each in news))


def _is_news(reason: Reason, disk: _Disk) -> bool:
    told = disk.told.get(reason.key)
    return told is None or reason.value >= 2 * told > 1 or (told == 1 and reason.value >= 2)


def _with_link(judgement: Judgement, record: SmartRecord, disk: _Disk) -> Judgement:
    reasons = list(judgement.reasons)
    for name, text in _LINK.items():
        value = record.credible(name)
        if value is None:
            continue
        grown = value - disk.link.setdefault(name, value)
        if grown < 0:  # a count that went back began anew
            disk.link[name] = value
        elif grown >= GROWN:
            reasons.append(Reason(name, "watch", f"{text}, {grown} more than at first", grown))
    if len(reasons) == len(judgement.reasons):
        return judgement
    state = max((each.state for each in reasons), key=RANK.__getitem__)
    return Judgement(state, tuple(reasons), judgement.remarks)
