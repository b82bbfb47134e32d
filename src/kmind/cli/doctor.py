# SPDX-License-Identifier: Apache-2.0
"""``kmind doctor``: what this kernel lets kmind do, and what each lack costs."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from typing import TextIO

from kmind.agent.kernel.shared_memory import ENVIRONMENT, choose_shape
from kmind.agent.types import Shape
from kmind.bpf.probe import Probe, facts, probe_all
from kmind.errors import KmindError, NotSupportedError, PrivilegeError

__all__ = ["SCHEMA", "run_doctor"]

SCHEMA = "kmind.doctor/1"

_PRIVILEGES = {"root", "capabilities", "sandbox_capabilities"}
_SHAPES = {Shape.ARENA: "arena", Shape.ARRAY: "array map"}
_COLOURS = {"ok": "green", "missing": "yellow", "refused": "red"}


def run_doctor(*, json: bool, out: TextIO) -> int:
    """Try everything, write what was found to ``out``, and return the exit code.

    0 if all that is required is there, 77 if this is not root or root lacks capabilities, 4
    if something else that is required is not there. Nothing that it tries is left behind.
    """
    probes = probe_all()
    shared, sharing = _shared_memory()
    known = {**facts(), "shared_memory": shared}
    lacking = [p.name for p in probes if p.required and p.state != "ok"]
    if json:
        report = {"schema": SCHEMA, "ok": not lacking, **known}
        out.write(dumps(report | {"probes": [asdict(p) for p in probes]}) + "\n")
    else:
        system = f"Linux {known['kernel']} on {known['machine']}, {known['cpus']} CPUs"
        if _is_terminal(out):
            _write_table(system, probes, out)
        else:
            _write_lines(system, probes, out)
        out.write(f"{sharing}\n")
        needed = ", ".join(lacking)
        out.write(
            f"Required, but missing: {needed}\n" if lacking else "All requirements are met.\n"
        )
    if not _PRIVILEGES.isdisjoint(lacking):
        return PrivilegeError.exit_code
    return NotSupportedError.exit_code if lacking else 0


def _shared_memory() -> tuple[str | None, str]:
    # The shape that an agent loaded now would have, None if none could be; and a line on it.
    try:
        shape = choose_shape()
    except KmindError as error:
        return None, f"Agents cannot share memory: {error}"
    asked = f", as {ENVIRONMENT} asks" if os.environ.get(ENVIRONMENT) else ""
    return str(shape), f"Agents share memory by an {_SHAPES[shape]}{asked}."


def _is_terminal(out: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return out.isatty() and not plain


def _remark(probe: Probe) -> str:
    if probe.state == "ok":
        return probe.cause
    return f"{probe.cause}. Costs: {probe.costs}"


def _write_lines(system: str, probes: Sequence[Probe], out: TextIO) -> None:
    width = max(len(p.name) for p in probes)
    out.write(f"{system}\n")
    for probe in probes:
        need = "needed" if probe.required else ""
        line = f"{probe.state:7}  {probe.name:{width}}  {need:6}  {_remark(probe)}"
        out.write(line.rstrip() + "\n")


def _write_table(system: str, probes: Sequence[Probe], out: TextIO) -> None:
    from rich.console import Console  # only here: it is slow to import
    from rich.table import Table
    from rich.text import Text

    table = Table(title=system, title_justify="left")
    for heading in ("what", "state", "needed", "result; if missing, cause and cost"):
        table.add_column(heading, overflow="fold")
    for probe in probes:
        state = Text(probe.state, style=_COLOURS[probe.state])
        table.add_row(probe.name, state, "yes" if probe.required else "", Text(_remark(probe)))
    Console(file=out).print(table)
