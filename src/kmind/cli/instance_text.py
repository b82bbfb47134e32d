# SPDX-License-Identifier: Apache-2.0
"""One instance in words: its state, what it changed, what it costs, what was decided on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["brief", "changed", "cost", "doing"]

_LONGEST = 160
_VERDICT = "verdict_"


def doing(row: Mapping[str, Any]) -> str:
    """Return the extension's own word on its activity, or the reason of its failure.

    Of a driver it is the device that it serves.
    """
    if (device := row.get("device")) and not row.get("failed"):
        return _short(f"{device['state']} {device['path']}".strip())
    status = row.get("status") or {}
    words = [value for value in status.values() if isinstance(value, str)]
    return _short(row.get("failed") or status.get("doing") or next(iter(words), "-"))


def changed(row: Mapping[str, Any]) -> str:
    """The knobs that it holds, as ``knob=value``."""
    return " ".join(f"{hold['knob']}={hold['value']}" for hold in row.get("holds") or ()) or "-"


def cost(row: Mapping[str, Any]) -> str:
    """CPU time of extension and hooks, in percent of one CPU since it was loaded; memory."""
    usage = (row.get("extension") or {}).get("usage") or {}
    account = row.get("account") or {}
    seconds = (usage.get("cpu_s") or 0) + account.get("hook_ns", 0) / 1e9
    parts = []
    if row.get("started") and (usage or account):
        percent = 100 * seconds / max(1.0, time.time() - row["started"])
        parts.append(f"{percent:.0f}% CPU" if percent >= 10 else f"{percent:.2g}% CPU")
    if usage.get("memory_bytes") is not None:
        parts.append(f"{usage['memory_bytes'] / 2**20:.0f} MiB")
    return ", ".join(parts) or "-"


def brief(row: Mapping[str, Any]) -> Iterator[str]:
    """Ten lines at most: the first has name, class, mode and state."""
    state = row.get("state", "-")
    if row.get("started") and state == "running":
        state += f" for {_span(time.time() - row['started'])}"
    yield f"{row['name']}: {row.get('class', '-')}, mode {row.get('mode', '-')}, {state}"
    lines = {
        "doing": doing(row),
        "device": _device(row.get("device") or {}),
        "holds": ", ".join(map(_hold, row.get("holds") or ())),
        "leases": ", ".join(map(_lease, row.get("leases") or ())),
        "experiment": _experiment(row.get("experiment") or {}),
        "verdicts": _verdicts(row.get("account") or {}),
        "lacking": _lacking(row),
        "parameters": _pairs(row.get("params") or {}),
        "status": _pairs({k: v for k, v in (row.get("status") or {}).items() if k != "doing"}),
        "cost": _whole_cost(row),
    }
    for name, line in lines.items():
        if line and line != "-":
            yield f"    {name + ':':<12}{_short(line)}"


def _device(device: Mapping[str, Any]) -> str:
    if not device:
        return ""
    again = f", restarted {device['restarts']} times" if device["restarts"] else ""
    return (
        f"{device['path'] or 'none yet'} ({device['kind']}, by {device['transport']}), "
        f"{device['state']}{again}"
    )


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _pairs(fields: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in fields.items()
    )


def _whole_cost(row: Mapping[str, Any]) -> str:
    account = row.get("account") or {}
    runs = account.get("hook_runs", 0)
    hooks = (
        f"; hooks ran {runs:,} times, {account.get('hook_ns', 0) / runs:,.0f} ns each"
        if runs
        else ""
    )
    return cost(row) + hooks


def _hold(hold: Mapping[str, Any]) -> str:
    left = f", {hold['left_s']:.0f} s left" if "left_s" in hold else ""
    return f"{hold['knob']}={hold['value']} (#{hold.get('id', '?')}{left})"


def _lease(lease: Mapping[str, Any]) -> str:
    return (
        f"{lease['knob']} of {lease['target']} (priority {lease['priority']}, "
        f"{lease['expires_s']:.0f} s left)"
    )


def _lacking(row: Mapping[str, Any]) -> str:
    parts = [f"hook {name}" for name in row.get("missing") or ()]
    if row.get("yielded"):
        parts.append(f"set by others: {', '.join(map(str, row['yielded']))}")
    return "; ".join(parts)


def _experiment(running: Mapping[str, Any]) -> str:
    if not running:
        return ""
    return (
        f"#{running['experiment']} compares {running['knob']} {running['candidate']} with "
        f"{running['incumbent']} (metric: {running['metric']}; {running['blocks']} blocks so far)"
    )


def _verdicts(account: Mapping[str, Any]) -> str:
    counts = {
        name.removeprefix(_VERDICT): count
        for name, count in account.items()
        if name.startswith(_VERDICT) and count
    }
    applied = {name: account[name] for name in ("applied", "undone") if account.get(name)}
    return ", ".join(f"{count} {name}" for name, count in (counts | applied).items())


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
