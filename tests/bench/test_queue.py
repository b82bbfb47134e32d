# SPDX-License-Identifier: Apache-2.0
"""The queue bench on the real kernel: it ends, and what it gives is whole."""

import json

import numpy as np
import pytest

from kmind.bench import queue

pytestmark = pytest.mark.kernel("syscall", "tp_btf")


def test_a_quick_run_gives_every_number_with_its_spread():
    result = queue.run_queue_bench(quick=True)
    assert json.loads(json.dumps(result)) == result
    for name in ("push_ns", "ringbuf_push_ns", "drain_events_per_s", "ringbuf_drain_events_per_s"):
        assert result[name] > 0
        assert np.isfinite(result[f"{name}_spread"])
    assert 0 < result["roundtrip_us"]["p50"] <= result["roundtrip_us"]["p99"]


def test_a_shape_that_was_asked_for_is_the_only_one():
    result = queue.run_queue_bench(quick=True, shared="array")
    assert result["shared"] == ["array"]
    assert result["push_ns"] > 0


def test_more_answers_than_a_pipe_holds_come_back():
    trips = queue._round_trips(10_000)
    # What the extension saw comes after what the agent decided.
    assert trips["roundtrip_us"]["p50"] < trips["roundtrip_seen_us"]["p50"]
