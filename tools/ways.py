# SPDX-License-Identifier: Apache-2.0
"""Trace two ways through kmind, and count their files and functions.

``.venv/bin/python tools/ways.py recommendation`` runs the module readahead on the simulated disk,
from the turn of the dispatcher that reads the window which leads to the first recommendation, until
the turn in which the extension is told that the value is kept. In between lie the agent's verdict,
the experiment, the journal and the knob; turns that other services have meanwhile count, too.

``sudo .venv/bin/python tools/ways.py load`` starts a daemon of its own, and has it load the module
``static``: from the entry of ``kmind load`` and of the extension's process to their ends, and in
the daemon while the request is answered. The daemon's part of the first recommendation, from
``Arbiter.carry_out`` until the experiments have it, is traced there and added to the first way by
``both``.

Functions of kmind count once each, those of testing/, workloads/ and modules/ do not. ``on the
way`` are those that are under way whenever one of its acts (``ACTS``) happens, such as reading,
deciding, writing, telling: what a reader follows from entry to act, without what is asked aside.
``that run`` are all in between. What runs in BPF is not seen; in the first way the simulated agent
stands for it.
"""

from __future__ import annotations

import json
import mmap
import os
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Function = tuple[str, str]  # file, relative to the package, and qualified name
Seen = tuple[str, Function]  # "run", or "way", and who

HERE = Path(__file__).resolve().parent.parent
APART = ("testing/", "workloads/", "modules/")

# What each way is for, by qualified names. A name that a checkout lacks does no harm.
ACTS = {
    # Read, recommended, judged, heard, on record, written, measured, kept, told, answered.
    "recommendation": frozenset(
        {
            "Reader.peek",
            "CompletionQueue.submit",
            "Admission.decide",
            "decode_action",
            "Journal.intend",
            "Knob.write",
            "FileBackend.write",
            "Experiment.learn_one",
            "EvidenceStore.begin",
            "EvidenceStore.end",
            "Simulation._note",
            "EventBus.notify",
            "Hub.publish",
            "SimAgent.notify",
            "CompletionQueue.answers",
        }
    ),
    # Asked, found, checked, loaded, granted, started, shut in, running, told, on record, answered.
    "load": frozenset(
        {
            "_UnixConnection.connect",
            "Mailbox.submit",
            "load_manifest",
            "parse_parameters",
            "Core.register",
            "BpfObject.load",
            "BpfAgent.pin",
            "BpfAgent.grant",  # as it was called
            "KernelAdmission.grant",
            "_spawn",
            "read_sources",
            "map_arena",
            "drop_privileges",
            "shut",
            "load_extension",
            "Endpoint.beat",
            "BpfAgent.start",
            "Hub.publish",
            "Core.set_process",
            "StateFolder.save",
            "write",
        }
    ),
}
# Of the daemon's threads: what goes round whether there is something to do or not.
LOOPS = frozenset({"_run", "main", "daemon_command", "run_daemon", "Daemon.run", "Worker._run"})
_BYTES = 4 << 20  # of a process's file
# Of each kind of process: where what counts begins and ends, by qualified names, and whether it
# ends when that is called or when it returns. A coroutine is called again whenever it goes on.
_JUDGED = "ExperimentController.approved|Trials.approved"  # as it was called
_SPANS = {
    "command": [("load", "main", "main", "return")],
    "daemon": [
        ("load", "Api.answer", "Api._run", "return"),
        (
            "recommendation",
            "Arbiter.carry_out",
            "ExperimentController.approved|Trials.approved",
            "call",
        ),
    ],
    "extension": [("load", "main", "Dispatcher.step", "call")],
}


class Tracer:
    """Takes down which functions run while it is ``on``; to be given to ``sys.setprofile``."""

    def __init__(self, package: Path) -> None:
        self.on = False
        self.seen: set[Seen] = set()
        self._package = str(package) + "/"
        self._names: dict[CodeType, Function | None] = {}

    def function(self, code: CodeType) -> Function | None:
        """Return a function by name; None where it is not kmind's, or only a part of one."""
        if code not in self._names:
            name = code.co_qualname.replace(".<locals>", "")
            file = code.co_filename.removeprefix(self._package)
            own = file != code.co_filename and "<" not in name
            self._names[code] = (file, name) if own else None
        return self._names[code]

    def look(self, span: str, frame: FrameType, function: Function) -> Iterator[Seen]:
        """Yield that a function runs, and if it is an act, what has led to it."""
        yield "run", function
        above = frame if function[1] in ACTS[span] else None
        while above is not None:
            on_the_way = self.function(above.f_code)
            if on_the_way and on_the_way[1] not in LOOPS:
                yield "way", on_the_way
            above = above.f_back

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take down one call, as ``sys.setprofile`` tells it."""
        if event == "call" and self.on and (function := self.function(frame.f_code)):
            self.seen.update(self.look("recommendation", frame, function))

    def start(self) -> None:
        """Trace this thread, and all that are started from now on."""
        threading.setprofile(self)
        sys.setprofile(self)


class ProcessTracer(Tracer):
    """Writes into memory that a file holds: it outlives the process, and needs no descriptor."""

    def __init__(self, package: Path, folder: Path, kind: str) -> None:
        super().__init__(package)
        self._kind = kind
        fd = os.open(folder / f"{kind}.{os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(fd, _BYTES)
        self._file = mmap.mmap(fd, _BYTES)
        os.close(fd)
        self._open: set[str] = set()
        self._over: set[str] = set()
        self._written: set[tuple[str, Seen]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take down one call, as ``sys.setprofile`` tells it."""
        function = self.function(frame.f_code)
        if function is None:
            return
        for span, first, last, ends in _SPANS[self._kind]:
            if event == "call" and function[1] == first and span not in self._over:
                self._open.add(span)
            if span in self._open and event == "call":
                self._write(span, set(self.look(span, frame, function)))
            if event == ends and function[1] in last.split("|") and span in self._open:
                self._open.discard(span)
                self._over.add(span)

    def _write(self, span: str, seen: set[Seen]) -> None:
        for each in seen:
            if (span, each) not in self._written:
                self._written.add((span, each))
                self._file.write(json.dumps([span, *each]).encode() + b"\n")


def install(package: str, folder: str) -> None:
    """Trace this process, a command or the daemon, and the extensions that it starts."""
    kind = "daemon" if "daemon" in sys.argv or "daemon" in sys.orig_argv else "command"
    ProcessTracer(Path(package), Path(folder), kind).start()
    spawn = os.posix_spawn

    def traced(path: Any, words: Any, *rest: Any, **more: Any) -> int:
        words = list(words)
        if "-m" in words and words[words.index("-m") + 1].endswith(".child"):
            at = words.index("-m")
            words[at : at + 1] = [__file__, "extension", package, folder]
        return spawn(path, words, *rest, **more)

    os.posix_spawn = traced


def _run_extension(package: str, folder: str, module: str, *words: str) -> None:
    sys.argv = [module, *words]
    ProcessTracer(Path(package), Path(folder), "extension").start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def recommendation(checkout: Path) -> set[Seen]:
    """Return what runs between the reading of a window and the value that is kept."""
    sys.path.insert(0, str(checkout / "src"))
    import numpy as np

    from kmind.testing import simulation

    tracer = Tracer(checkout / "src" / "kmind")
    kept: set[Seen] = set()

    class Traced(simulation.Simulation):
        begun = ended = False

        def _turn(self) -> None:
            if self.ended:
                return
            told = any(change.kind == "kept" for change in self.changes)
            tracer.on = True
            super()._turn()
            tracer.on = False
            if self.begun or any(name == "Context.recommend" for _, (_, name) in tracer.seen):
                self.begun = True
                kept.update(tracer.seen)
                tracer.on = True  # the agent's answer comes between two turns
            else:
                tracer.seen.clear()
            self.ended = told

    rng = np.random.default_rng(0)
    at_random = np.stack([rng.integers(0, 1 << 18, 1 << 16), np.ones(1 << 16, np.int64)], axis=1)
    world = Traced("readahead", "patience=0")
    with world:
        tracer.start()
        for _ in range(200):
            world.run(at_random, 1.0, mapped=True)
            if world.ended:
                break
        sys.setprofile(None)
        threading.setprofile(None)
        if not world.ended:
            raise SystemExit(f"no value was kept: {world.verdicts} {world.results}")
    return kept


def load(checkout: Path) -> dict[str, set[Seen]]:
    """Return what runs in both spans, traced in a daemon that loads the module static."""
    sys.path.insert(0, str(checkout / "src"))
    from kmind.knobs import block_targets, get_knob
    from kmind.testing.daemon import DaemonHost

    package = checkout / "src" / "kmind"
    spans: dict[str, set[Seen]] = {}
    with tempfile.TemporaryDirectory(prefix="kmind-ways-") as where:
        folder = Path(where)
        (folder / "sitecustomize.py").write_text(
            f"import sys; sys.path.insert(0, {str(HERE / 'tools')!r}); import ways\n"
            f"ways.install({str(package)!r}, {where!r}); del sys.path[0]\n"
        )
        target = block_targets()[0]
        before = int(get_knob("block.read_ahead_kb").read(target))
        with DaemonHost.open(folder) as host:
            host.environment["PYTHONPATH"] = f"{where}:{checkout / 'src'}"
            host.start()
            words = ("load", "static", target.name, f"value={before * 2}", "--mode", "auto")
            print(host.kmind(*words).strip(), file=sys.stderr)
            until = time.monotonic() + 20
            while int(get_knob("block.read_ahead_kb").read(target)) == before:
                if time.monotonic() > until:
                    raise SystemExit("the value was not applied")
                time.sleep(0.1)
            time.sleep(0.5)
            host.end()
        for file in folder.glob("*.*"):
            if file.suffix.removeprefix(".").isdigit():
                for line in file.read_bytes().rstrip(b"\0").splitlines():
                    span, how, (name, function) = json.loads(line)
                    spans.setdefault(span, set()).add((how, (name, function)))
    return spans


def show(name: str, seen: set[Seen], *, every: bool) -> None:
    """Print the numbers of one way, and with ``every`` its functions by file."""
    counted = {(how, function) for how, function in seen if not function[0].startswith(APART)}
    way = {function for how, function in counted if how == "way"}
    run = {function for _, function in counted}
    for title, functions in (("on the way", way), ("that run", run)):
        files = {file for file, _ in functions}
        print(f"{name}: {len(files)} files, {len(functions)} functions {title}")
    for file in sorted({file for file, _ in way}) if every else ():
        print(f"  {file}: {', '.join(sorted(n for f, n in way if f == file))}")


def main() -> None:
    """Trace, and print."""
    words = [word for word in sys.argv[1:] if word != "-v"]
    every = "-v" in sys.argv
    what, checkout = words[0] if words else "both", Path(words[1] if words[1:] else HERE).resolve()
    spans = load(checkout) if what in ("load", "both") else {}
    if what in ("recommendation", "both"):
        found = recommendation(checkout) | spans.get("recommendation", set())
        show("a recommendation", found, every=every)
    if "load" in spans:
        show("kmind load", spans["load"], every=every)


if __name__ == "__main__":
    if sys.argv[1:2] == ["extension"]:
        _run_extension(*sys.argv[2:])
    else:
        main()
