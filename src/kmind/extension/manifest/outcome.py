# SPDX-License-Identifier: Apache-2.0
"""Outcomes and guards that a module's experiments are judged by, and their design.

All are sums of counters of the agent, which the extension cannot reach: the owner reads them at
both ends of a block, and takes the difference.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kmind.extension._parameter import Name, Part, Text

__all__ = ["CircumstancePart", "EvidencePart", "GuardPart", "MeasurePart", "OutcomePart"]

_Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=3600)]


class MeasurePart(Part, frozen=True, kw_only=True):
    """A ratio of two sums of counters; without a ``denominator`` it is per second.

    ``floor``, in its unit, is added to each reading: a cost that may be nought has no ratio there.
    """

    name: Name
    help: Text
    better: Literal["higher", "lower"]
    numerator: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    denominator: tuple[Name, ...] = ()
    unit: str = ""
    floor: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0

    @property
    def features(self) -> tuple[str, ...]:
        """The counters that it is made of."""
        return self.numerator + self.denominator


class OutcomePart(MeasurePart, frozen=True, kw_only=True):
    """``[[outcome]]``: what is to become ``better``.

    The first one decides an experiment whose ``when`` holds: any of its tables, each of which
    names circumstances and the class that they are to be in; without it always. Where another
    one decides, it must not get ``guard`` times worse, where ``guard_when`` holds, likewise; 0 says
    that it means nothing there. A gain by it is void unless ``candidate_when`` holds, likewise, of
    the candidate's blocks.
    """

    when: tuple[dict[Name, Name], ...] = ()
    candidate_when: tuple[dict[Name, Name], ...] = ()
    guard: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.1
    guard_when: tuple[dict[Name, Name], ...] = ()

    def __post_init__(self) -> None:
        if 0 < self.guard <= 1:
            raise ValueError(f"guard is {self.guard}: give a factor above 1, or 0")


class GuardPart(MeasurePart, frozen=True, kw_only=True):
    """``[[guard]]``: what must not become ``limit`` times worse; if it does, it is aborted."""

    limit: Annotated[float, msgspec.Meta(gt=1, le=1000)]


_Term = Annotated[str, msgspec.Meta(pattern=r"^-?[a-z][a-z0-9_]{0,39}$")]


class CircumstancePart(Part, frozen=True, kw_only=True):
    """``[[circumstance]]``: a ratio of sums of counters, in coarse classes.

    It is what the owner tells loads apart by. A counter with ``-`` before its name is taken
    away; without a ``denominator`` the ratio is per second. ``classes`` has one name more than
    there are ``bounds``, which rise: the first is for what lies below the first bound. Where the
    denominator is 0 the class is ``none``. With ``by_value`` the class follows the knob's value as
    much as the load: it says which outcome decides, and is no part of what is remembered.
    """

    name: Name
    help: Text
    numerator: Annotated[tuple[_Term, ...], msgspec.Meta(min_length=1)]
    bounds: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=16)]
    classes: tuple[Name, ...]
    denominator: tuple[_Term, ...] = ()
    by_value: bool = False

    def __post_init__(self) -> None:
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bounds must rise")
        if len(self.classes) != len(self.bounds) + 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: one name for each part that the bounds make")
        if "none" in self.classes:
            raise ValueError("classes: none is reserved for a divisor of 0")

    @property
    def features(self) -> tuple[str, ...]:
        """The counters that it is made of."""
        return tuple(term.removeprefix("-") for term in self.numerator + self.denominator)


class EvidencePart(Part, frozen=True, kw_only=True):
    """``[evidence]``: who measures, and how.

    ``by = "module"``: the extension runs experiments of its own, and what it recommends
    is applied as it is. Blocks of ``block_s`` follow ``wash_out_s`` after each change; an
    experiment takes at most ``max_s``. What is kept is measured again after ``recheck_s``,
    doubled each time, and remembered for ``memory_s`` (all in seconds). A gain counts
    from ``min_gain`` on, as a share.
    """

    by: Literal["owner", "module"] = "owner"
    block_s: _Seconds = 0.4
    wash_out_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.1
    max_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 60.0
    min_gain: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    recheck_s: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    memory_s: Annotated[float, msgspec.Meta(ge=0)] = 7 * 86400.0
