# SPDX-License-Identifier: Apache-2.0
"""Grants of the extension of an agent in the kernel."""

from __future__ import annotations

import mmap

import numpy as np

from kmind.abi import layout
from kmind.agent.codec import pack_grant
from kmind.agent.core.codec import Fill
from kmind.agent.core.core import Core
from kmind.agent.kernel.generation import Generation
from kmind.agent.types import Grant
from kmind.errors import BpfError

__all__ = ["KernelAdmission"]


class KernelAdmission:
    """Grants in the kernel's table, each with the place of its lease in the core."""

    def __init__(self, generation: Generation, core: Core | None, slot: int) -> None:
        self._generation = generation
        self._core = core
        self._slot = slot

    def grant(self, knob: int, target: int, grant: Grant) -> None:
        """Let the instance recommend values for a knob."""
        words = np.frombuffer(pack_grant(grant), layout.GRANT)[0].copy()
        if self._core is not None:
            words["lease"] = self._core.leases.place(self._slot, knob, target)
        try:
            self._generation.control("GRANT", knob=knob, target=target, grant=words)
        except BpfError:
            if self._core is not None:
                self._core.leases.leave(self._slot, knob, target)
            raise

    def revoke(self, knob: int, target: int) -> None:
        """Grant a knob no more; nothing if it was not."""
        self._generation.control("REVOKE", knob=knob, target=target)
        if self._core is not None:
            self._core.leases.leave(self._slot, knob, target)

    def set_current(self, knob: int, target: int, value: int) -> None:
        """Say what value a knob has now."""
        self._generation.control("CURRENT", knob=knob, target=target, value=value)

    def set_model(self, identity: int) -> None:
        """Admit recommendations of one model only."""
        self._generation.control("MODEL", value=identity)

    def fill(self) -> Fill:
        """Return the fill level of the table of grants."""
        grants = self._generation.maps["km_grants"]
        size = layout.GRANT.itemsize * grants.max_entries
        with mmap.mmap(grants.fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as view:
            rows = np.frombuffer(view[:], layout.GRANT)
        return Fill(int((rows["key"] != 0).sum()), len(rows))
