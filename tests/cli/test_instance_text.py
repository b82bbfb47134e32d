# SPDX-License-Identifier: Apache-2.0
"""An instance in words: what `kmind list` and `kmind status` say of it."""

import time
from typing import Any

import pytest

from kmind.cli.instance_text import brief, changed, cost, doing


def instance(**fields: Any) -> dict[str, Any]:
    """A row of the daemon's with all fields that it may have."""
    return {
        "name": "readahead@vda",
        "class": "tuner",
        "mode": "auto",
        "state": "running",
        "failed": "",
        "started": time.time() - 7200,
        "params": {"random_kb": 16, "search": True},
        "holds": [{"knob": "block.read_ahead_kb", "value": 16, "id": 7, "left_s": 12.3}],
        "experiment": {
            "experiment": 12, "knob": "block.read_ahead_kb", "incumbent": 128, "candidate": 16,
            "metric": "requests", "blocks": 34, "detectable": 1.05, "interval": None,
        },
        "yielded": ["block.nr_requests"],
        "extension": {"pid": 1, "uid": 2, "usage": {"cpu_s": 36.0, "memory_bytes": 40 << 20}},
        "missing": {"on_sync": "no such tracepoint"},
        "account": {
            "hook_runs": 1_000_000, "hook_ns": 36_000_000_000, "applied": 2, "undone": 1,
            "verdict_approved": 2, "verdict_step": 0, "verdict_lease": 5,
        },
        "status": {"phase": "random", "doing": "keeping 16 KiB", "skill": 0.1},
        "leases": [
            {
                "knob": "block.read_ahead_kb", "target": "vda", "holder": "readahead@vda",
                "priority": 100, "expires_s": 6.767,
            }
        ],
    } | fields  # fmt: skip


def test_all_there_is_to_say_takes_ten_lines() -> None:
    lines = list(brief(instance()))
    assert lines == [
        "readahead@vda: tuner, mode auto, running for 2 h",
        "    doing:      keeping 16 KiB",
        "    holds:      block.read_ahead_kb=16 (#7, 12 s left)",
        "    leases:     block.read_ahead_kb of vda (priority 100, 7 s left)",
        "    experiment: #12 compares block.read_ahead_kb 16 with 128 "
        "(metric: requests; 34 blocks so far)",
        "    verdicts:   2 approved, 5 lease, 2 applied, 1 undone",
        "    lacking:    hook on_sync; set by others: block.nr_requests",
        "    parameters: random_kb=16 search=true",
        "    status:     phase=random skill=0.1",
        "    cost:       1% CPU, 40 MiB; hooks ran 1,000,000 times, 36,000 ns each",
    ]


@pytest.mark.parametrize("field", list(instance()))
def test_a_field_may_be_absent(field: str) -> None:
    row = instance()
    if field != "name":
        del row[field]
    assert len(list(brief(row))) <= 10
    assert all((changed(row), cost(row), doing(row)))


def test_long_texts_are_cut() -> None:
    row = instance(status={"doing": "x" * 10_000}, params={f"p{n}": n for n in range(1000)})
    lines = list(brief(row))
    assert len(lines) <= 10
    assert all(len(line) <= 200 for line in lines)


def test_a_failure_says_why() -> None:
    row = instance(mode="emergency", state="failed", failed="the extension\nended")
    assert doing(row) == "the extension ended"
    assert next(brief(row)) == "readahead@vda: tuner, mode emergency, failed"


def test_the_first_words_of_a_status_stand_for_what_it_does() -> None:
    assert doing(instance(status={"ratio": 1.0, "health": "learning"})) == "learning"
    assert doing(instance(status={"ratio": 1.0})) == "-"


def test_cost_counts_extension_and_hooks() -> None:
    assert cost(instance()) == "1% CPU, 40 MiB"
    assert cost(instance(extension=None)) == "0.5% CPU"
    assert cost(instance(started=time.time() - 30)) == "240% CPU, 40 MiB"
    assert cost({"name": "x"}) == "-"


def test_a_driver_does_what_its_device_does() -> None:
    device = {
        "path": "/dev/loop3",
        "kind": "block",
        "transport": "loop",
        "state": "serving",
        "restarts": 0,
    }
    row = instance() | {"device": device}
    assert doing(row) == "serving /dev/loop3"
    assert "    device:     /dev/loop3 (block, by loop), serving" in list(brief(row))
    device |= {"restarts": 2, "state": "failed"}
    assert "    device:     /dev/loop3 (block, by loop), failed, restarted 2 times" in list(
        brief(row)
    )
    device |= {"path": "", "state": "starting", "restarts": 0}
    assert doing(row) == "starting"
    assert "    device:     none yet (block, by loop), starting" in list(brief(row))
