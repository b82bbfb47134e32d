# SPDX-License-Identifier: Apache-2.0
"""``kmind bench``: the numbers in the docs, measured here."""

from __future__ import annotations

import importlib
import json as json_module
import signal
import sys
from collections.abc import Mapping
from typing import Any

from kmind.bench import show_result
from kmind.cli.output import write

__all__ = ["bench_command"]


def bench_command(name: str, *, quick: bool, json: bool, options: Mapping[str, Any]) -> int:
    """Run one bench and print its measurements; ``options`` are those that the bench declares."""
    run = getattr(importlib.import_module(f"kmind.bench.{name}"), f"run_{name}_bench")
    given = {key: value for key, value in options.items() if value not in (None, [])}
    # Ended by a signal it puts back what it changed, as it does at any other end.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        result = run(quick=quick, **given)
    finally:
        signal.signal(signal.SIGTERM, before)
    if json:
        sys.stdout.write(json_module.dumps(result) + "\n")
    else:
        write(show_result(result))
    return 0
