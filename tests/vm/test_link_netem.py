# SPDX-License-Identifier: Apache-2.0
"""A link beside netem, in a guest whose kernel has it: both are late as asked, and lose nothing."""

import numpy as np
import pytest
from vm.guest import Guest

KERNEL = "6.12"


@pytest.mark.guest(KERNEL)
@pytest.mark.slow
def test_both_keep_the_delay_and_neither_is_early() -> None:
    with Guest(KERNEL) as guest:
        guest.load("tun", "sch_netem", "veth")
        found = guest.call("vm.link_netem:main", seconds=300)
    for name, one in found.items():
        late = np.array(one["late"])
        p50, p99 = np.percentile(late, [50, 99])
        print(
            f"{name}: {len(late)} are late by {p50:.2f} ms, p99 {p99:.2f}, worst {late.max():.2f}"
        )
        assert one["lost"] == [0]
        assert late.min() >= 0
