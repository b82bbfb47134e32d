# SPDX-License-Identifier: Apache-2.0
"""Kept copies of the stores' files: one of each version, written by the kmind of its time.

``python tests/stores.py journal`` writes the copy of the present version to tests/data/stores.
"Change a store" in CONTRIBUTING.md says when. A copy is what the program that it was made by has
written, as SQL, so that a diff shows it.
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

from kmind.guard import Journal, Owner
from kmind.knobs import Target, get_knob
from kmind.util.procfs import boot_id
from kmind.workloads.simulated_disk import make_disk_files

__all__ = ["BOOT", "COPIES", "KEPT", "WRITERS", "kept", "main", "unpack", "version"]

KEPT = Path(__file__).parent / "data" / "stores"

COPIES = sorted(KEPT.glob("*.sql"))
"""Each kept copy: ``STORE-VERSION.sql``. A letter behind the version tells files apart that had
the same number and other tables."""

BOOT = "the boot"
"""What stands in a copy for the boot that it was written in."""

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
    """Make the database that a copy is of, as if it had been written since boot; its path."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    from kmind.runtime.experiment.store import EvidenceStore

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


WRITERS: dict[str, Callable[[Path, Target], None]] = {
    "journal": write_journal,
    "advice": write_advice,
    "evidence": write_evidence,
}
"""What makes a file of each store, by the present code."""


def main(store: str, name: str = "") -> None:
    """Write the copy of the present version of a store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state" / f"{store}.db"
        WRITERS[store](path, make_disk_files(Path(folder) / "root"))
        with closing(sqlite3.connect(path)) as db:
            number = db.execute("PRAGMA user_version").fetchone()[0]
            lines = "\n".join(db.iterdump())
    lines = lines.replace(boot_id(), BOOT).replace(folder, "")
    text = f"{_LICENCE}{lines}\nPRAGMA user_version = {number};\n"
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name or f'{store}-{number}'}.sql").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
