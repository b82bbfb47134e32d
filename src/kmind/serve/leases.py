# SPDX-License-Identifier: Apache-2.0
"""The leases of the core object, in words."""

from __future__ import annotations

import time
from typing import Any

from kmind.agent.core import Core
from kmind.knobs import all_knobs, block_devices, parse_target

__all__ = ["describe_leases"]


def describe_leases(core: Core) -> list[dict[str, Any]]:
    """Each lease that is held now; ``expires_s`` is in seconds from now.

    ``denied`` counts the requests for it that were ever refused. A knob or target that
    is unknown here stands as its number, and so does a holder that is gone.
    """
    now = time.monotonic()
    holders = {each.slot: each.name for each in core.instances()}
    knobs = {knob.id: knob.name for knob in all_knobs()}
    targets = {parse_target(name).id: name for name in ("system", *block_devices())}
    return [
        {
            "knob": knobs.get(lease.knob, str(lease.knob)),
            "target": targets.get(lease.target, str(lease.target)),
            "holder": holders.get(lease.slot, f"slot {lease.slot}"),
            "priority": lease.priority,
            "expires_s": round(lease.expires_s - now, 3),
            "denied": lease.denied,
        }
        for lease in core.leases()
        if lease.expires_s > now
    ]
