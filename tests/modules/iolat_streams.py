# SPDX-License-Identifier: Apache-2.0
"""Requests of a made-up disk, as iolat's recipe gets them and as its agent meets them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Module, find_module
from kmind.learn.schema import STORED_RECORD
from kmind.modules.iolat.recipe import COLUMNS
from kmind.testing.recordings import made_windows

__all__ = ["EVENT", "bursts", "events_of", "homogeneous", "stored", "windows_for"]

_Array = npt.NDArray[Any]

REQUEST = np.dtype([(n, "<i8") for n in ("issue", "latency", "depth", "sectors", "write")])
EVENT = np.dtype(
    [(n, "<u8") for n in ("done", "now", "took", "depth", "sectors", "write", "slow")]
    + [("x", "<i8", (len(COLUMNS),))]
)
"""``struct iol_event`` of iolat_feed.h."""

_START_NS = 1_000_000_000_000


def bursts(count: int, seed: int = 0) -> _Array:
    """Small reads; now and then large writes come by the dozen, and all is slow while they last.

    The first requests of a burst can be told by their size and by the queue alone.
    """
    rng = np.random.default_rng(seed)
    made = _plain(count, rng)
    at = 0
    while True:
        at += int(rng.integers(60, 200))
        end = at + int(rng.integers(10, 60))
        if end >= count:
            break
        part = made[at:end]
        part["write"] = rng.random(end - at) < 0.5
        part["sectors"] = np.where(part["write"] == 1, 1024, part["sectors"])
        part["depth"] = rng.integers(8, 40, end - at)
        part["latency"] = rng.lognormal(np.log(5e6), 0.3, end - at)
        at = end
    return made


def homogeneous(count: int, seed: int = 0) -> _Array:
    """Small reads, one like the other; what differs is noise."""
    return _plain(count, np.random.default_rng(seed))


def events_of(requests: _Array, slow_ns: int) -> _Array:
    """Issues and completions in the order of time, ``EVENT``; completions first at a tie."""
    issued, done = np.zeros(len(requests), EVENT), np.zeros(len(requests), EVENT)
    for name in ("depth", "sectors", "write"):
        issued[name] = done[name] = requests[name]
    issued["now"] = requests["issue"]
    done["now"] = requests["issue"] + requests["latency"]
    done["took"], done["done"] = requests["latency"], 1
    done["slow"] = requests["latency"] > slow_ns
    both = np.concatenate([done, issued])
    return both[np.argsort(both["now"], kind="stable")]


def stored(requests: _Array) -> _Array:
    """The records that blockio would have made of them, as a recording holds them."""
    order = np.argsort(requests["issue"] + requests["latency"], kind="stable")
    ended = requests[order]
    rows = np.zeros(len(ended), STORED_RECORD)
    rows["at"] = (ended["issue"] + ended["latency"] - _START_NS) // 100_000_000
    records = rows["record"]
    records["kind"] = 64 + ended["write"]
    records["seq"] = np.arange(len(ended))
    records["commit"] = records["seq"] + 1
    records["time_ns"] = ended["issue"]
    records["value"] = ended["latency"] | ended["depth"] << 40
    records["subject"] = ended["sectors"]
    return rows


def windows_for(requests: _Array, module: Module | None = None) -> _Array:
    """Windows that span them."""
    source = module or find_module("blockio")
    last = int((requests["issue"] + requests["latency"]).max()) - _START_NS
    return made_windows(np.zeros((last // 100_000_000 + 2, len(source.manifest.features))))


def _plain(count: int, rng: np.random.Generator) -> _Array:
    made = np.zeros(count, REQUEST)
    made["issue"] = _START_NS + np.cumsum(rng.exponential(1e6, count)).astype(np.int64) + 1
    made["latency"] = rng.lognormal(np.log(1e5), 0.2, count)
    made["depth"] = rng.integers(1, 4, count)
    made["sectors"] = 8
    return made
