# SPDX-License-Identifier: Apache-2.0
"""What a module's experiments are judged by: its outcomes, guards and their design.

All are sums of counters of the agent, which the extension cannot reach: the owner reads
them at both ends of a block, and takes the difference.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kmind.extension._parameter import Name, Part, Text

__all__ = ["EvidencePart", "GuardPart", "OutcomePart"]

_Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=3600)]


class OutcomePart(Part, frozen=True, kw_only=True):
    """``[[outcome]]``: what is to become ``better``, a ratio of two sums of counters.

    Without a ``denominator`` it is per second. An experiment goes by the first, unless
    the recommendation names another one as ``outcome`` in its evidence.
    """

    name: Name
    help: Text
    better: Literal["higher", "lower"]
    numerator: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    denominator: tuple[Name, ...] = ()
    unit: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """The counters that it is made of."""
        return self.numerator + self.denominator


class GuardPart(OutcomePart, frozen=True, kw_only=True):
    """``[[guard]]``: what must not become ``limit`` times worse; if it does, it is aborted."""

    limit: Annotated[float, msgspec.Meta(gt=1, le=1000)]


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
