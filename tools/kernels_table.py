# SPDX-License-Identifier: Apache-2.0
"""Write the table of docs/kernels.md from ``kmind doctor --json`` of each kernel.

The reports are in docs/kernels/. ``--boot`` makes them anew first, in a guest of each kernel
(tools/guests.sh makes what these boot from), which takes some minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "kernels.md"
REPORTS = ROOT / "docs" / "kernels"
BEGIN = "<!-- tools/kernels_table.py writes from here -->\n"
END = "<!-- to here -->\n"
_MARKS = {"ok": "yes", "partly": "partly", "missing": "no", "refused": "refused"}

Report = dict[str, Any]


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> None:
    """Write the page; with ``--boot`` the reports, too."""
    if "--boot" in arguments:
        boot()
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        sys.exit(f"{PAGE} lacks the lines between which the table stands")
    PAGE.write_text(f"{head}{BEGIN}\n{table(read_reports())}\n{END}{tail}")


def boot() -> None:
    """Ask ``kmind doctor`` in a guest of each kernel, and keep what it says."""
    sys.path.insert(0, str(ROOT / "tests"))
    from vm.guest import KERNELS, Guest

    for kernel in KERNELS:
        with Guest(kernel, lsm="landlock,lockdown,yama,bpf") as guest:
            done = guest.run("python3", "-m", "kmind", "doctor", "--json", seconds=500)
        report = json.loads(done.stdout)
        (REPORTS / f"{kernel}.json").write_text(json.dumps(report, indent=1) + "\n")


def read_reports() -> list[Report]:
    """Return all kept reports, the oldest kernel first."""
    reports = [json.loads(path.read_text()) for path in REPORTS.glob("*.json")]
    return sorted(reports, key=lambda report: _version(report["kernel"]))


def _version(release: str) -> list[int]:
    return [int(word) for word in release.partition("-")[0].partition("+")[0].split(".")]


def table(reports: Sequence[Report]) -> str:
    """Return the tables: modules, what they lose, and the features that some kernel lacks."""
    head = " | ".join(report["kernel"] for report in reports)
    line = "|---|" + "---|" * len(reports)
    rows = [f"| runs | {head} |", line]
    rows += [_row("all that agents share", [_MARKS[r["core"]["state"]] for r in reports])]
    rows += [_row("agents share memory by", [r["shared_memory"] or "nothing" for r in reports])]
    rows += [
        _row(f"`{name}`", [_MARKS[each[name]["state"]] for each in map(_modules, reports)])
        for name in _modules(reports[-1])
    ]
    rows += ["", *_losses(reports), "", f"| feature | {head} | without it |", line + "---|"]
    for name, probe in _probes(reports[-1]).items():
        states = [_probes(report)[name]["state"] for report in reports]
        if set(states) != {"ok"}:
            costs = f"{probe['costs']} (required)" if probe["required"] else probe["costs"]
            rows.append(f"{_row(f'`{name}`', [_MARKS[state] for state in states])} {costs} |")
    return "\n".join(rows) + "\n"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _losses(reports: Sequence[Report]) -> Iterator[str]:
    # A row for each cause, with the kernels that have it.
    found: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for name, module in _modules(report).items():
            texts = [f"without `{loss['hook']}`: {loss['costs']}" for loss in module["lost"]]
            for by in module["replaced"]:
                where = by["function"] or by["tracepoint"]
                loses = f": {by['loses']}" if by["loses"] else ""
                texts.append(f"`{by['hook']}` stands at `{where}` instead{loses}")
            if cause := module["cause"].partition("; at ")[0]:
                texts.append(f"does not run: {cause}")
            for text in texts:
                found.setdefault((name, text), []).append(report["kernel"].split("-")[0])
    yield "| module | on | what |"
    yield "|---|---|---|"
    yield from (f"| `{name}` | {', '.join(on)} | {text} |" for (name, text), on in found.items())


def _modules(report: Report) -> dict[str, Any]:
    return {module["name"]: module for module in report["modules"]}


def _probes(report: Report) -> dict[str, Any]:
    return {probe["name"]: probe for probe in report["probes"]}


if __name__ == "__main__":
    main()
