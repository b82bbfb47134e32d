# SPDX-License-Identifier: Apache-2.0
"""Knobs of zswap, the compressed cache in front of swap: its module parameters."""

from __future__ import annotations

from typing import Literal

from kmind.knobs._base import Knob

__all__ = ["COMPRESSORS", "KNOBS"]

_DOC = "Documentation/admin-guide/mm/zswap.rst"
_FOLDER = "sys/module/zswap/parameters/"
COMPRESSORS = ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate", "842")
"""Compressors that kernels can be built with, by their names in the crypto API."""


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
        cost_why="Applies from the next page that is swapped out on.",
    )


KNOBS = (
    _switch(
        "enabled",
        "compressed cache in memory for pages on their way to swap",
        "After a return to N, stored pages stay until they are read or evicted.",
        "disturbing",
        "The first time, the kernel sets up a pool; from then on swapping takes CPU time.",
    ),
    Knob(
        name="zswap.compressor",
        target="system",
        path=_FOLDER + "compressor",
        summary="compression algorithm of zswap",
        reference=_DOC,
        kind="enum",
        choices=COMPRESSORS,
        listed="crypto",
        settle="slow",
        note="Limited to the algorithms that the kernel has loaded (/proc/crypto).",
        cost="disturbing",
        cost_why="A second pool is set up, and the first one stays until it is empty.",
    ),
    _percent("max_pool_percent", "share of memory that zswap may use", 1, 50),
    _percent(
        "accept_threshold_percent",
        "fill level below which a full pool accepts pages again",
        50,
        100,
    ),
    _switch(
        "shrinker_enabled",
        "writing of cold pages from the pool to disk under memory pressure",
        "",
        "cheap",
        "Applies from the next round of reclaim on.",
    ),
)
"""All knobs of this family."""
