# SPDX-License-Identifier: Apache-2.0
"""``kmind bench``: the numbers that the documentation claims, a command for each bench.

A bench is a module ``NAME`` in ``kmind.bench`` with ``run_NAME_bench`` and its ``OPTIONS``. The
first sentence of its docstring is the summary: so the overview need not import it.
"""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path

import kmind
from kmind.cli.options import JSON
from kmind.command import Command, Flag, Option, Words

__all__ = ["COMMAND"]

_FOLDER = Path(kmind.__file__).parent / "bench"
_QUICK = Flag("quick", "smaller and shorter, for a first impression")
_SENTENCE = re.compile(r'"""(.*?)(?:\n\n|""")', re.DOTALL)


def _run(name: str, words: Words) -> int:
    from kmind.cli.bench import bench_command

    options = dict(words)
    return bench_command(
        name, quick=options.pop("quick"), json=options.pop("json"), options=options
    )


def _options(name: str) -> tuple[Option | Flag, ...]:
    return tuple(importlib.import_module(f"kmind.bench.{name}").OPTIONS)


def _members() -> tuple[Command, ...]:
    texts = {path.stem: path.read_text() for path in sorted(_FOLDER.glob("*.py"))}
    return tuple(
        Command(
            f"bench {name}",
            "Benchmarks",
            " ".join(sentence[1].split()),
            partial(_run, name),
            options=(_QUICK, JSON),
            late_options=partial(_options, name),
            examples=(f"kmind bench {name} --quick",),
        )
        for name, text in texts.items()
        if f"\ndef run_{name}_bench(" in text and (sentence := _SENTENCE.search(text))
    )


COMMAND = Command(
    "bench",
    "Benchmarks",
    "Run the benchmarks behind the numbers in the documentation.",
    examples=("kmind bench readahead --quick --json",),
    commands=_members(),
)
