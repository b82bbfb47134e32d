# SPDX-License-Identifier: Apache-2.0
"""``kmind doctor``: what this kernel lets kmind do, and what each lack costs."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from typing import Any, NamedTuple, TextIO

from kmind.agent.kernel.shared_memory import ENVIRONMENT, choose_shape
from kmind.agent.types import Shape
from kmind.bpf.probe import Probe, facts, probe_all
from kmind.errors import KmindError, NotSupportedError, PrivilegeError
from kmind.runtime.instance.ability import Ability, try_built_in, try_core

__all__ = ["SCHEMA", "run_doctor"]

SCHEMA = "kmind.doctor/1"

_PRIVILEGES = {"root", "capabilities", "sandbox_capabilities"}
_SHAPES = {Shape.ARENA: "arena", Shape.ARRAY: "array map"}
_COLOURS = {"ok": "green", "partly": "yellow", "missing": "yellow", "refused": "red"}


class _Row(NamedTuple):
    state: str
    name: str
    need: str
    remark: str


def run_doctor(*, json: bool, out: TextIO) -> int:
    """Try everything, write what was found to ``out``, and return the exit code.

    Takes some seconds, most of them the verifier's with the agents of the modules.

    0 if all that is required is there, 77 if this is not root or root lacks capabilities, 4
    if something else that is required is not there. Nothing that it tries is left behind.
    """
    probes = probe_all()
    shared, sharing = _shared_memory()
    known = {**facts(), "shared_memory": shared}
    core = try_core()
    lacking = [p.name for p in probes if p.required and p.state != "ok"]
    lacking += [core.name] * (core.state != "ok")
    if json:
        report: dict[str, Any] = {"schema": SCHEMA, "ok": not lacking, **known}
        report["probes"] = [asdict(probe) for probe in probes]
        report["core"] = {"state": core.state, "cause": core.cause}
        report["modules"] = [asdict(module) for module in try_built_in()]
        out.write(dumps(report) + "\n")
    else:
        system = f"Linux {known['kernel']} on {known['machine']}, {known['cpus']} CPUs"
        write = _write_table if _is_terminal(out) else _write_lines
        agents = _Row(core.state, core.name, "needed", core.cause or "what all agents share")
        write(system, [*map(_probe_row, probes), agents], out)
        out.write(f"{sharing}\n")
        out.flush()  # the rest takes a few seconds
        write("Modules", [_module_row(each) for each in try_built_in()], out)
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


def _probe_row(probe: Probe) -> _Row:
    remark = probe.cause if probe.state == "ok" else f"{probe.cause}. Costs: {probe.costs}"
    return _Row(probe.state, probe.name, "needed" if probe.required else "", remark)


def _module_row(module: Ability) -> _Row:
    remarks = [module.cause] if module.cause else []
    remarks += [f"{loss.hook}: {loss.cause}. Costs: {loss.costs}" for loss in module.lost]
    for by in module.replaced:
        place = f"function {by.function}" if by.function else f"tracepoint {by.tracepoint}"
        costs = f". Costs: {by.loses}" if by.loses else ""
        remarks.append(f"{by.hook}: at {place} instead{costs}")
    return _Row(module.state, module.name, "", "; ".join(remarks))


def _write_lines(title: str, rows: Sequence[_Row], out: TextIO) -> None:
    width = max(len(row.name) for row in rows)
    need = max(len(row.need) for row in rows)
    out.write(f"{title}\n")
    for row in rows:
        line = f"{row.state:7}  {row.name:{width}}  {row.need:{need}}  {row.remark}"
        out.write(line.rstrip() + "\n")


def _write_table(title: str, rows: Sequence[_Row], out: TextIO) -> None:
    from rich.console import Console  # only here: it is slow to import
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for heading in ("what", "state", "needed", "result; if missing, cause and cost"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        state = Text(row.state, style=_COLOURS[row.state])
        table.add_row(row.name, state, "yes" if row.need else "", Text(row.remark))
    Console(file=out).print(table)
