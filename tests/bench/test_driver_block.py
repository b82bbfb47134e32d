# SPDX-License-Identifier: Apache-2.0
"""The bench of block devices ends, gives every number, and leaves nothing."""

import json

import pytest
from disks import require_devices

from kmind.bench.driver import run_driver_bench


@pytest.mark.kernel
@pytest.mark.needs("fio", "losetup")
def test_a_quick_run_gives_every_number_with_its_spread() -> None:
    require_devices()
    result = run_driver_bench(quick=True, block=True)
    assert json.loads(json.dumps(result)) == result
    for name in ("loop", "loop_write", "loop_depth_1", "kernel_loop", "file", "file_128k"):
        assert result[f"block_{name}_iops"] > 0
        assert result[f"block_{name}_iops_spread"] >= 0
    assert result["block_loop_of_kernel_loop"] > 0
    assert 0 < result["block_kill_stall_ms"] <= result["block_kill_stall_ms_p99"]
    assert result["block_kill_longest_request_ms"] > 0


@pytest.mark.kernel("libbpf", "bpf_timer", "syscall", "tp_fuse")
@pytest.mark.needs("fio")
def test_a_quick_run_prices_the_accounts_and_miscounts_nothing() -> None:
    require_devices()
    result = run_driver_bench(quick=True, accounts=True)
    assert result["accounts_with_iops"] > 0
    assert result["accounts_without_iops"] > 0
    assert result["accounts_with_of_without"] > 0
    assert result["accounts_aa"] > 0
    assert result["accounts_hook_ns"] > 0
    assert result["accounts_reads_miscounted"] == 0
    assert "block_loop_iops" not in result
