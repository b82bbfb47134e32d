# SPDX-License-Identifier: Apache-2.0
"""The bench of admission, small: its numbers, and that it changes no knob."""

import json
import math

import pytest

from kmind.bench import admission
from kmind.bench._shapes import asked_shapes
from kmind.bench.admission import OPTIONS, run_admission_bench
from kmind.errors import PrivilegeError

KERNEL = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")


@KERNEL
def test_verdict_in_a_hook_is_timed() -> None:
    found = admission._inline(20, asked_shapes(None))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert math.isfinite(found["hook_verdict_ns"])
    assert found["hook_verdict_p99_ns"] >= found["hook_verdict_ns"]


@KERNEL
def test_verdict_of_the_tick_is_timed() -> None:
    found = admission._idle(20)
    assert 0 < found["idle_verdict_us"]["p50"] <= found["idle_verdict_us"]["p99"]


def test_user_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError):
        run_admission_bench(quick=True)


def test_attack_is_an_option_of_its_own() -> None:
    assert "attack" in [option.name for option in OPTIONS]
