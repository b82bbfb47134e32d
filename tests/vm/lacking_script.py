# SPDX-License-Identifier: Apache-2.0
"""Parts of doctor, and types of a kernel that lacks some."""

from __future__ import annotations

from pathlib import Path

from kmind.abi.btf import KERNEL_BTF
from kmind.bpf.probe import probe_all
from kmind.extension import find_module
from kmind.runtime.instance.ability import try_core, try_module

__all__ = ["try_some", "without_typed_tracepoints"]


def try_some() -> dict[str, str]:
    """Return name to state of the probes, the core, and one module.

    The verification of all others takes long in a guest.
    """
    tried = (*probe_all(), try_core(), try_module(find_module("static")))
    return {each.name: each.state for each in tried}


def without_typed_tracepoints(path: str) -> None:
    """Write this kernel's types to a file, but those of its tracepoints."""
    types = KERNEL_BTF.read_bytes()
    assert types.count(b"\0btf_trace_") > 100
    Path(path).write_bytes(types.replace(b"\0btf_trace_", b"\0not_trace_"))
