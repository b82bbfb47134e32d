# SPDX-License-Identifier: Apache-2.0
"""All that doctor tries but most modules, whose verification takes long in a guest."""

from __future__ import annotations

from kmind.bpf.probe import probe_all
from kmind.extension import find_module
from kmind.runtime.instance.ability import try_core, try_module

__all__ = ["try_some"]


def try_some() -> dict[str, str]:
    """Return name to state of the probes, the core, and one module."""
    tried = (*probe_all(), try_core(), try_module(find_module("static")))
    return {each.name: each.state for each in tried}
