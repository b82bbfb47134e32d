# SPDX-License-Identifier: Apache-2.0
"""``kmind bench``: the numbers in the docs, measured here."""

from __future__ import annotations

import importlib
import json as json_module
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from kmind.bench._base import print_result
from kmind.cli._names import BENCHES
from kmind.errors import UsageError

__all__ = ["bench_command"]


def bench_command(
    name: str,
    *,
    quick: bool,
    json: bool,
    folder: Path | None,
    device: str | None,
    only: list[str],
    adversary: bool = False,
    agreement: bool = False,
    attack: bool = False,
    real: float | None = None,
) -> int:
    """Run one bench and print what it measured.

    ``folder`` and ``device`` are for those that read a disk, ``only`` for readahead and
    autotune, ``adversary`` and ``real`` for evidence, ``agreement`` for infer, ``attack``
    for admission.
    Raises UsageError for another name, and for an option that the bench does not have.
    """
    if name not in BENCHES:
        raise UsageError(f"there is no bench {name!r}", hint=f"choose from {', '.join(BENCHES)}")
    options: dict[str, Any] = {}
    known = {
        "readahead": ("dir", "device", "only"),
        "autotune": ("dir", "device", "only"),
        "admission": ("dir", "device", "attack"),
        "evidence": ("dir", "adversary", "real"),
        "infer": ("agreement",),
        "iolat": ("dir",),
    }
    for option, value in (
        ("dir", folder),
        ("device", device),
        ("only", only or None),
        ("adversary", adversary or None),
        ("agreement", agreement or None),
        ("attack", attack or None),
        ("real", real),
    ):
        if value is None:
            continue
        if option not in known.get(name, ()):
            raise UsageError(f"bench {name} has no option --{option}", hint="leave it away")
        options[option] = value
    run = getattr(importlib.import_module(f"kmind.bench.{name}"), f"run_{name}_bench")
    # Ended by a signal it puts back what it changed, as it does at any other end.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        result = run(quick=quick, **options)
    finally:
        signal.signal(signal.SIGTERM, before)
    if json:
        sys.stdout.write(json_module.dumps(result) + "\n")
    else:
        print_result(result, Console(file=sys.stdout))
    return 0
