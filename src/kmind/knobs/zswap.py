# SPDX-License-Identifier: Apache-2.0
"""Knobs of zswap, the compressed cache in front of swap: its module parameters."""

from __future__ import annotations

from typing import Literal

from kmind.knobs._base import Knob

__all__ = ["COMPRESSORS", "KNOBS"]

_DOC = "Documentation/admin-guide/mm/zswap.rst"
_FOLDER = "sys/module/zswap/parameters/"
COMPRESSORS = ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate", "842")
"""What the kernel can be built to compress pages with, by the name in its crypto API."""


def _switch(
    file: str, summary: str, note: str, cost: Literal["cheap", "disturbing"], why: str
) -> Knob:
    return Knob(
        name=f"zswap.{file}",
        target="system",
        path=_FOLDER + file,
        summary=summary,
        reference=_DOC,
        kind="enum",
        choices=("N", "Y"),
        listed="all",
        settle="slow",
        note=note,
        cost=cost,
        cost_why=why,
    )


def _percent(file: str, summary: str, minimum: int, maximum: int) -> Knob:
    return Knob(
        name=f"zswap.{file}",
        target="system",
        path=_FOLDER + file,
        summary=summary,
        reference=_DOC,
        unit="%",
        minimum=minimum,
        maximum=maximum,
        settle="slow",
        cost_why="The next page that is swapped out goes by it.",
    )


KNOBS = (
    _switch(
        "enabled",
        "whether pages on their way to swap are kept in memory, compressed",
        "Set back to N, what is stored stays until it is read or thrown out.",
        "disturbing",
        "The first time the kernel sets up a pool; from then on swapping takes CPU time.",
    ),
    Knob(
        name="zswap.compressor",
        target="system",
        path=_FOLDER + "compressor",
        summary="how zswap compresses",
        reference=_DOC,
        kind="enum",
        choices=COMPRESSORS,
        listed="crypto",
        settle="slow",
        note="Only those that the kernel has loaded can be chosen (/proc/crypto).",
        cost="disturbing",
        cost_why="A second pool is set up, and the first one stays until it is empty.",
    ),
    _percent("max_pool_percent", "share of memory that zswap may take", 1, 50),
    _percent(
        "accept_threshold_percent",
        "how full the pool may be before it takes pages again, once it was full",
        50,
        100,
    ),
    _switch(
        "shrinker_enabled",
        "whether cold pages leave the pool for the disk under pressure",
        "",
        "cheap",
        "The next round of reclaim goes by it.",
    ),
)
"""All knobs of this family."""
