# SPDX-License-Identifier: Apache-2.0
"""The bench of network links ends, gives every number, and leaves nothing."""

import json

import pytest
from driver.net.nets import require_tap

from kmind.bench.driver import run_driver_bench


@pytest.mark.kernel
def test_a_quick_run_gives_every_number_with_its_spread() -> None:
    require_tap()
    result = run_driver_bench(quick=True, net=True)
    assert json.loads(json.dumps(result)) == result
    floods = ("frames_per_s", "frames_late_per_s", "frames_per_cpu_s", "frames_late_per_cpu_s")
    for name in (*floods, "tcp_gbit", "tcp_without_offload_gbit"):
        assert result[f"net_{name}"] > 0
        assert result[f"net_{name}_spread"] >= 0
    # By the kernel's clock no frame can be early.
    assert 0 <= result["net_late_ms"] <= result["net_late_p99_ms"] <= result["net_late_worst_ms"]
    assert 0 < result["net_rate_of_asked"] < 1.1
