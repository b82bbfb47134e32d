# SPDX-License-Identifier: Apache-2.0
"""Kept copies of the stores' files: one of each version, written by the kmind of its time.

``python tests/stores.py journal`` writes the copy of the present version to tests/data/stores.
"Change a store" in CONTRIBUTING.md says when. A copy is what the program that it was made by has
written; a database as SQL, so that a diff shows it.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from kmind.guard import Journal, Owner
from kmind.knobs import Target, get_knob
from kmind.queue import Geometry
from kmind.queue.memory import write_memory as write_text
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.holds.state import HoldState
from kmind.runtime.instance.extension.checkpoint import MEMORY, Checkpoint
from kmind.runtime.instance.models import DeployedModels
from kmind.runtime.instance.state import InstanceState
from kmind.runtime.sandbox.state import ProcessState
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.util.procfs import boot_id
from kmind.util.saver import SAVER
from kmind.workloads.simulated_disk import make_disk_files

__all__ = [
    "BOOT",
    "COPIES",
    "DATABASES",
    "FILES",
    "KEPT",
    "WRITERS",
    "kept",
    "main",
    "unpack",
    "version",
]

KEPT = Path(__file__).parent / "data" / "stores"

COPIES = sorted(KEPT.iterdir())
"""Each kept copy: ``STORE-VERSION``, and ``.sql`` behind it for a database. A letter behind the
version tells files apart that had the same number and other content."""

DATABASES = [copy for copy in COPIES if copy.suffix == ".sql"]

BOOT = "the boot"
"""Placeholder in a copy for the boot that it was written in."""

_LICENCE = "-- SPDX-License-Identifier: Apache-2.0\n"


def kept(store: str) -> list[Path]:
    """The copies of one store, oldest first."""
    return [copy for copy in COPIES if copy.stem.partition("-")[0] == store]


def version(copy: Path) -> int:
    """The version that a copy is of."""
    found = re.search(r"-(\d+)", copy.stem)
    assert found
    return int(found[1])


def unpack(copy: Path, path: Path) -> Path:
    """Make the file that a copy is of, as if it had been written since boot; its path."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if copy.suffix != ".sql":
        path.write_bytes(copy.read_bytes().replace(BOOT.encode(), boot_id().encode()))
        return path
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(copy.read_text().replace(BOOT, boot_id()))
    path.chmod(0o600)
    return path


def write_journal(path: Path, disk: Target) -> None:
    """One row in each state that matters: undone, kept, held and on trial; and a drain."""
    knob = get_knob("block.read_ahead_kb")
    who = Owner("readahead@sim0", 0, 1 << 22, 1)  # no process has that number
    with Journal(path) as journal:
        undone = journal.intend(knob, disk, 8192, 64, who, why="once", evidence={"windows": 3})
        journal.applied(undone, 64)
        journal.finish([undone], "undone")
        held = journal.intend(knob, disk, 8192, 1024, who, why="held", rec_id=7)
        journal.applied(held, 1024)
        trial = journal.intend(knob, disk, 1024, 16, who, why="measured", trial=True)
        journal.applied(trial, 16)
        vm = get_knob("vm.vfs_cache_pressure")
        stays = journal.intend(vm, Target.system(), 100, 50, who, why="kept")
        journal.finish([stays], "kept", "by policy")
        journal.begin_drain(knob, disk, 16)


def write_advice(path: Path, disk: Target) -> None:
    """Advice that is open, applied and rejected."""
    from kmind.runtime.supervisor.advice import AdviceStore

    class Doer:
        def apply_advice(self, advice: Any) -> int:
            return 5

        def undo_advice(self, change: int) -> str:
            return ""

    store = AdviceStore(path, Doer(), now=lambda: 1.8e9)
    for value in (64, 128, 256):
        store.note(
            instance="readahead@sim0", knob="block.read_ahead_kb", target=disk.name, value=value,
            current=8192, verdict="advised", reason="mostly random", evidence={"gain": 0.2},
            command=f"echo {value}", rec_id=value,
        )  # fmt: skip
    store.apply("1")
    store.reject("2")
    store.close()


def write_evidence(path: Path, disk: Target) -> None:
    """An experiment that was kept, one that runs, and a day's budget."""
    from kmind.evidence import Budget
    from kmind.runtime.evidence_store import EvidenceStore

    knob = get_knob("block.read_ahead_kb")
    record = {
        "outcome": "gain", "reason": "", "detectable": 0.05, "blocks": [[1.0, 2.0]],
        "interval": {"ratio": 1.2, "low": 1.1, "high": 1.3, "pairs": 8},
    }  # fmt: skip
    with EvidenceStore(path, now=lambda: 1.8e9) as store:
        for candidate in (16, 64):
            number = store.begin(
                kind="trial", instance="readahead@sim0", module="readahead", backend="bpf",
                knob=knob, target=disk, incumbent=8192, candidate=candidate, metric="requests",
                unit="", context="", reason="mostly random", evidence={"windows": 3},
            )  # fmt: skip
            if candidate == 16:
                store.end(number, record, kept=True)
        store.set_budget(knob, disk, Budget(tests=2, carried=0.01))


def write_findings(path: Path, disk: Target) -> None:
    """A finding that is open, one that is closed, and a report with a file."""
    from kmind.extension.handover import Filed, Found
    from kmind.extension.manifest.manifest import FindingPart, ReportPart
    from kmind.runtime.findings.keeper import Finder, Findings

    kind = FindingPart(name="fail_slow", help="h", severity="warning", score="Times as slow.")
    who = Finder("slowio@sim0", "slowio", disk.name, disk.identity())
    with Findings(path, lambda event: None, now=lambda: 1.8e9) as findings:
        for part in ("", "queue 1"):
            note = Found(
                kind=kind.name, part=part, title="It is slow.", score=2.0, evidence={"requests": 9}
            )
            findings.find(who, kind, note)
        findings.close_finding(who.id("finding", kind.name, "queue 1"))
        findings.file(
            who,
            ReportPart(name="failure", help="h"),
            Filed(kind="failure", signature="s", title="It fails.", files={"a.csv": b"1,2"}),
        )


WRITERS: dict[str, Callable[[Path, Target], None]] = {
    "journal": write_journal,
    "advice": write_advice,
    "evidence": write_evidence,
    "findings": write_findings,
}
"""Functions that make the database of each store, by the present code."""

INSTANCE = "readahead@sim0"
STATE = InstanceState(
    name=INSTANCE, module="readahead", target="sim0",
    params={"value": 512, "hold_s": 0.5, "fast": True, "word": "x"},
    mode="auto", slot=3, generation=2, started=1.5,
    process=ProcessState(pid=7, start=99, uid=61200, log="/run/kmind/log/x", cgroup="x"),
    holds=(HoldState(knob="block.read_ahead_kb", until_ns=5, change=8, rec_id=9, value=512),),
    yielded=("block.nomerges",), windows=17, last_id=21, running=True,
)  # fmt: skip
MODELS = DeployedModels(slots={"ab" * 32: b"\0\1\2", "cd" * 32: b"\xff" * 8})
TEXT = b'{"seen":[1,2]}'


def write_state(folder: Path) -> Path:
    """All that a daemon writes down of an instance."""
    StateFolder(folder).save(STATE)
    return folder / f"{INSTANCE}.json"


def write_models(folder: Path) -> Path:
    """The models of an instance."""
    StateFolder(folder).save_models(INSTANCE, MODELS)
    return folder / f"{INSTANCE}.models"


def write_memory(folder: Path) -> Path:
    """Write the memory of an extension."""
    geometry = Geometry.plan(1, 2)
    arena = np.zeros(geometry.size, np.uint8)
    memory = Checkpoint(INSTANCE, folder, budget(), log=print, now=lambda: 0.0)
    memory.watch(arena, geometry)
    write_text(arena, geometry, TEXT)
    memory.poll()
    assert SAVER.settle(30)
    return folder / f"{INSTANCE}.json"


def budget() -> OwnerBudget:
    """Return an extension's budget, on a clock that stands still."""
    return OwnerBudget(lambda: 0.0)


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "state": (write_state, STATE.schema),
    "models": (write_models, MODELS.schema),
    "memory": (write_memory, MEMORY.schema),
}
"""Functions that make the other files, with the files' versions."""


def main(store: str, name: str = "") -> None:
    """Write the copy of the present version of a store."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if store in FILES:
            write, schema = FILES[store]
            data = write(Path(folder) / "state").read_bytes()
            number, suffix = int(schema.rpartition("/")[2]), ""
        else:
            path = Path(folder) / "state" / f"{store}.db"
            WRITERS[store](path, make_disk_files(Path(folder) / "root"))
            with closing(sqlite3.connect(path)) as db:
                number, suffix = db.execute("PRAGMA user_version").fetchone()[0], ".sql"
                lines = "\n".join(db.iterdump())
            data = f"{_LICENCE}{lines}\nPRAGMA user_version = {number};\n".encode()
    data = data.replace(boot_id().encode(), BOOT.encode()).replace(folder.encode(), b"")
    (KEPT / f"{name or f'{store}-{number}'}{suffix}").write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
