# SPDX-License-Identifier: Apache-2.0
"""``[objective]``: a number that the owner measures for the extension."""

from __future__ import annotations

from kmind.extension._parameter import Name, Part

__all__ = ["ObjectivePart"]


class ObjectivePart(Part, frozen=True, kw_only=True):
    """``[objective]``: which of the module's parameters say what is measured, and how.

    ``what`` names the objective (str), ``better`` its direction (an enum of auto, higher
    and lower), ``every`` the seconds between two answers and ``timeout`` the most that one
    may take, ``looks_back`` the seconds before it was asked that an answer of a server or
    a command speaks of (float), and ``user`` whom a command runs as (str).
    """

    what: Name = "objective"
    better: Name = "better"
    every: Name = "every"
    timeout: Name = "timeout"
    looks_back: Name = "looks_back"
    user: Name = "user"
