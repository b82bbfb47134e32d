# SPDX-License-Identifier: Apache-2.0
"""``kmind record``: what the agents of modules see, as Parquet files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kmind.cli.output import json_line, write
from kmind.cli.run import stop_signals
from kmind.guard import Journal, Policy, restore
from kmind.learn.record import Plan, Recorder
from kmind.runtime.instance.agent_factory import need_root
from kmind.runtime.instance.hook_gating import silent_hooks

__all__ = ["SCHEMA", "record_command"]

SCHEMA = "kmind.record/1"


def record_command(
    plan: Plan,
    output: Path,
    *,
    duration_s: float | None,
    policy_file: Path | None,
    json: bool,
) -> int:
    """Record until the time is up or a signal comes; then say what there is."""
    need_root()
    policy = Policy.load(policy_file)
    with Journal() as journal:
        restore(journal, policy)
    for module, target, _ in plan.instances:
        for line in silent_hooks(module.manifest, target):
            sys.stderr.write(f"kmind: {line}\n")
    with stop_signals() as stop, Recorder(plan, output, policy=policy) as recorder:
        why = recorder.run(duration_s, lambda: stop.is_set, _tell)
        done = _summary(recorder, output, why)
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    if json:
        write(json_line(SCHEMA, done) + "\n")
    else:
        for row in done["instances"]:
            lost = max(row["ring_dropped"], row["ring_lost"]) + row["queue_dropped"]
            write(
                f"{row['name']}: {row['windows']:,} windows and {row['records']:,} records, "
                f"{lost:,} lost\n"
            )
        write(f"{output}: {done['seconds']:.1f} s ({why}); see it with: kmind inspect {output}\n")
    return 0


def _tell(recorder: Recorder) -> None:
    if sys.stderr.isatty():
        counts = ", ".join(f"{t.name} {t.windows:,}+{t.records:,}" for t in recorder.taps)
        sys.stderr.write(f"\r{recorder.seconds:6.0f} s, windows+records: {counts}")
        sys.stderr.flush()


def _summary(recorder: Recorder, output: Path, why: str) -> dict[str, Any]:
    return {
        "output": str(output),
        "seconds": round(recorder.seconds, 3),
        "ended": why,
        "instances": [
            {
                "name": tap.name,
                "windows": tap.windows,
                "records": tap.records,
                "ring_dropped": tap.counts().ring_dropped,
                "ring_lost": tap.counts().ring_lost,
                "queue_dropped": tap.dropped,
            }
            for tap in recorder.taps
        ],
    }
