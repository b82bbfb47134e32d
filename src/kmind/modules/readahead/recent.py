# SPDX-License-Identifier: Apache-2.0
"""Summary of the latest windows: the evidence for a proposal."""

from __future__ import annotations

from collections import deque
from statistics import fmean

from .phase import Phase, Usage

__all__ = ["Recent"]

_BLOCK = 3  # windows that a decision stands on
_PAGE_KB = 4
_RISES = 3  # how often what is left to be cached has to rise before it is believed to go on so
_RISE_PAGES = 1024  # by that much, and to the double


class Recent:
    """The last windows. But for ``agree`` and ``mapped``, all of it wants at least one."""

    def __init__(self) -> None:
        self._windows: deque[Usage] = deque(maxlen=_BLOCK)
        self._steps: deque[bool] = deque(maxlen=_BLOCK)
        self.begin()

    def begin(self) -> None:
        """Another phase begins."""
        self._rises = 0
        self._least: int | None = None

    def learn_one(self, usage: Usage) -> None:
        """Take one window."""
        self._windows.append(usage)
        if usage.stride_pages > 0:
            self._steps.append(usage.steps)
        if usage.added <= 0:
            return
        uncached, least = usage.uncached_pages, self._least
        if least is not None and uncached > 2 * least + _RISE_PAGES:
            self._rises += 1
        elif least is not None:
            uncached = min(uncached, least)
        self._least = uncached

    def agree(self, phase: Phase) -> bool:
        """True if there are enough windows, and all are in that phase."""
        return len(self._windows) == _BLOCK and all(usage.phase == phase for usage in self._windows)

    @property
    def last(self) -> Usage | None:
        """The latest."""
        return self._windows[-1] if self._windows else None

    @property
    def miss_kb(self) -> float:
        """Mean amount that a miss reads, in KiB."""
        return fmean(usage.pages_per_miss for usage in self._windows) * _PAGE_KB

    @property
    def mapped(self) -> bool:
        """True if most reads go through mmap."""
        return bool(self._windows) and fmean(u.mapped_share for u in self._windows) > 0.5

    @property
    def in_steps(self) -> bool:
        """True if mapped files are read step by step (backwards, for example), so that all is used.

        One window in three is enough: by chance that pattern occurs in none of 554.
        """
        return self.mapped and any(self._steps)

    @property
    def fits(self) -> bool:
        """True if memory is left for all files that are read and not yet cached.

        The memory left is that of the task which missed last, in whatever group. So it has to be
        enough in each window, with few pages dropped again.
        """
        left = min(usage.left_pages for usage in self._windows)
        return self._uncached <= left and self._removed <= self._added / 2

    @property
    def until_cached_s(self) -> float:
        """Seconds until all of the files read lies in memory, or infinity if it will not."""
        if not self.fits or self._added <= self._removed:
            return float("inf")
        return self._uncached / (self._added - self._removed)

    @property
    def file_by_file(self) -> bool:
        """True if files are read one after the other in this phase, so that there is always a next.

        Then the uncached rest of the current files does not tell when all is cached.
        """
        return self._rises >= _RISES

    @property
    def _added(self) -> float:
        return fmean(usage.added for usage in self._windows)

    @property
    def _removed(self) -> float:
        return fmean(usage.removed for usage in self._windows)

    @property
    def said(self) -> int:
        """Class that a deployed model predicts, from 1.

        0 without one, or if the windows disagree.
        """
        said = {usage.said for usage in self._windows}
        return said.pop() if len(said) == 1 else 0

    @property
    def _uncached(self) -> int:
        return max(usage.uncached_pages for usage in self._windows)

    def context(self, phase: Phase) -> str:
        """The circumstances, in a word: what is best in them is remembered."""
        where = f"{phase}, {'mapped' if self.mapped else 'read'}"
        if phase == "stream":
            return where
        if self.in_steps:
            return f"{where}, in steps"
        # The same reads want another value where all that is read will soon be cached.
        return f"{where}, fits" if self.fits else where

    def grounds(self, phase: Phase) -> str:
        """Return the reason for that phase, in half a sentence."""
        share = fmean(usage.sequential_share for usage in self._windows)
        pages = fmean(usage.pages_per_miss for usage in self._windows)
        if phase == "stream":
            return f"{share:.0%} of the reads go on where the last one ended"
        if self.in_steps:
            return f"mapped files are read step by step, and a miss reads {pages:,.0f} pages"
        return f"{1 - share:.0%} of reads are at random and a miss reads {pages:,.0f} pages"

    def numbers(self) -> dict[str, float | int | str]:
        """The measurements behind it."""
        last = self._windows[-1]
        return {
            "requests_per_s": round(last.requests, 1),
            "misses_per_s": round(last.misses, 1),
            "in_order": round(last.sequential_share, 3),
            "pages_per_miss": round(last.pages_per_miss, 1),
            "stride_pages": round(last.stride_pages),
            "stride_spread": round(last.stride_spread),
            "uncached_pages": self._uncached,
            "left_pages": last.left_pages,
        }
