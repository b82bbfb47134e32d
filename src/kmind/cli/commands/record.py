# SPDX-License-Identifier: Apache-2.0
"""``kmind record``: what agents see, as Parquet files."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON, POLICY
from kmind.command import Argument, Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.record import record_command
    from kmind.learn.record import plan_recording

    plan = plan_recording(
        words["modules"],
        max_mib=words["max_mib"],
        stream=words["stream"],
        tags=words["tag"],
        sweep=words["sweep"],
        sweep_s=words["sweep_s"],
        seed=words["seed"],
    )
    return record_command(
        plan,
        words["output"],
        duration_s=words["duration"],
        policy_file=words["policy"],
        json=words["json"],
    )


COMMAND = Command(
    "record",
    "Recordings and models",
    "Record the windows, records and tables of agents, as Parquet files.",
    _run,
    arguments=(
        Argument(
            "modules",
            "modules, each with its parameters; hooks@DISK is each request of a disk",
            metavar="MODULE[@TARGET]",
            many=True,
        ),
    ),
    options=(
        Option("output", "a new folder, or a file NAME.parquet", Path, short="-o", required=True),
        Option("duration", "seconds (default: until Ctrl-C)", convert=float, minimum=0.1),
        Option(
            "max-mib",
            "limit of all files together; the oldest are removed",
            convert=int,
            default=1024,
            minimum=1,
        ),
        Option("stream", "record this stream only", choices=("windows", "records", "tables")),
        Option("tag", "tag to store in the recording; repeatable", many=True, metavar="NAME=VALUE"),
        Option(
            "sweep",
            "set a knob to each value in turn, and put it back at the end",
            metavar="KNOB=VALUE,VALUE,...",
        ),
        Option("sweep-s", "seconds for each value", convert=float, default=2.0, minimum=0.2),
        Option("seed", "seed of a sweep's random order", convert=int, default=0, minimum=0),
        POLICY,
        JSON,
    ),
    examples=("kmind record readahead@vda -o trace --duration 60",),
)
