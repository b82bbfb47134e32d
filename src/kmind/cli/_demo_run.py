# SPDX-License-Identifier: Apache-2.0
"""Run ``kmind run`` beside the demo's load: report its changes, and end the demo if it fails."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kmind import events
from kmind.errors import KmindError, NotSupportedError, PrivilegeError
from kmind.events import Event

__all__ = ["Runner", "check_run", "tell_change"]

_STOP_S = 20.0
_LOOK_S = 0.05
_T = TypeVar("_T")
_TOLD = (
    events.Experiment,
    events.Result,
    events.Applied,
    events.Kept,
    events.Undone,
    events.Yielded,
    events.Failed,
)


def check_run(device: str, state: Path) -> None:
    """Raise what `kmind run` fails with on this machine; it watches the disk for a moment.

    ``state`` is the folder for its journal and memory.
    """
    words = ["readahead", device, "--mode", "observe", "--duration", "0.1"]
    with Runner(words, lambda line: None, state) as runner:
        runner.wait()


def tell_change(event: Event, changes: list[dict[str, Any]]) -> str:
    """An event of ``kmind run`` as a line of the story, or ""; ``changes`` gets old values."""
    if isinstance(event, events.Applied | events.Kept):
        fields = event.fields()
        changes.append({n: fields[n] for n in ("knob", "old", "value", "reason", "evidence")})
    untold = isinstance(event, events.Result) and event.kept
    line = event.text() if isinstance(event, _TOLD) and not untold else ""
    return f"  {line}" if line else ""


class Runner:
    """``kmind run`` with these words, while the block runs; tells its changes as they come.

    At the end of the block it is interrupted, and KmindError is raised if it failed. ``changes``
    are those that stood, and ``restored`` says whether everything was put back. ``state`` is
    where it keeps its journal and what it learns, in place of the machine's own folder.
    """

    def __init__(
        self, words: Sequence[str], say: Callable[[str], None], state: Path | None = None
    ) -> None:
        self.changes: list[dict[str, Any]] = []
        self.restored = False
        self._words = words
        self._say = say
        self._state = state

    def __enter__(self) -> Runner:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kmind", "run", *self._words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **({"KMIND_STATE_DIR": str(self._state)} if self._state else {})},
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise KmindError("kmind run did not stop", hint="run: kmind restore") from None
        self._reader.join()  # what it said last is whether all was put back
        if kind is None and code:
            raise self._error(code)

    def wait(self) -> None:
        """Wait until it ends by itself."""
        self._process.wait()

    def beside(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, or raise what it raises.

        If `kmind run` ends first, its error is raised at once, and the programs that ``work``
        runs are stopped.
        """
        results: list[_T] = []
        errors: list[Exception] = []

        def do() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)

        worker = threading.Thread(target=do)
        worker.start()
        try:
            while worker.is_alive() and self._process.poll() is None:
                worker.join(_LOOK_S)
        finally:
            self._stop_others(worker)
        if self._process.poll() is not None:
            raise self._error(self._process.returncode)
        if errors:
            raise errors[0]
        return results[0]

    def _stop_others(self, worker: threading.Thread) -> None:
        # It may start one more while the first is stopped. Grace, then force.
        asked: dict[int, float] = {}
        while worker.is_alive():
            for pid in _children() - {self._process.pid}:
                with contextlib.suppress(ProcessLookupError):
                    if pid not in asked:
                        asked[pid] = time.monotonic()
                        os.kill(pid, signal.SIGINT)
                    elif time.monotonic() - asked[pid] > _STOP_S:
                        os.kill(pid, signal.SIGKILL)
            worker.join(_LOOK_S)

    def _error(self, code: int) -> KmindError:
        self._reader.join()
        text = self._process.stderr.read() if self._process.stderr else ""
        reason = text.strip().removeprefix("kmind: ") or f"it ended with status {code}"
        kinds = {kind.exit_code: kind for kind in (NotSupportedError, PrivilegeError)}
        return kinds.get(code, KmindError)(f"kmind run: {reason}")

    def _read(self) -> None:
        for text in self._process.stdout or ():
            event = events.decode(json_module.loads(text))
            if isinstance(event, events.Stop):
                self.restored = event.restored
            elif line := tell_change(event, self.changes):
                # Nobody but this run has its experiments.
                self._say(line.partition("; see: kmind why")[0] if self._state else line)


def _children() -> set[int]:
    pids = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # that thread has ended
            pids |= {int(pid) for pid in children.read_text().split()}
    return pids
