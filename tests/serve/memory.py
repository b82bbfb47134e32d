# SPDX-License-Identifier: Apache-2.0
"""A supervisor whose instances are entries in a dict; names and parameters are checked for real.

As a script it is a daemon around one: ``memory.py RUN_DIR [--keep | --stuck...]``. Its instances
survive in a file if they are kept.
"""

import gc
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sample_events import make

from kmind.agent.types import Mode
from kmind.errors import KmindError, ModelError
from kmind.events import Emit, Event
from kmind.extension import Value, parse_parameters
from kmind.extension.handover import Filed, Found
from kmind.extension.manifest.manifest import FindingPart, ReportPart
from kmind.infer.model_file import ModelFile
from kmind.runtime.findings.keeper import Finder, Findings
from kmind.runtime.instance.agent_factory import bind
from kmind.runtime.objective.poller import check_requester
from kmind.runtime.supervisor.advice import AdviceStore
from kmind.runtime.supervisor.turn_times import TurnTimes

# One that no other test makes or takes away, if there is such.
_DISKS = [path.parent.name for path in sorted(Path("/sys/block").glob("*/device"))]
DISK = next(iter([*_DISKS, *(path.name for path in sorted(Path("/sys/block").iterdir()))]))

_FINDER = Finder("slowio@vda", "slowio", "vda", "serial x")


class MemorySupervisor:
    """Runs nothing, and keeps all promises of the supervisor's interface."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "instances.json"
        self._instances: dict[str, dict[str, Any]] = {}
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._callbacks: list[Emit] = []
        self._changes = 0
        self.advice = AdviceStore(folder / "advice.db", self)
        self.evidence_path = folder / "evidence.db"
        self.findings = Findings(folder / "findings.db", self._publish)
        self.turns = TurnTimes()
        self.requests = self

    def start(self) -> None:
        if self._file.exists():
            self._instances = json.loads(self._file.read_text())
            self._file.unlink()

    def load(
        self,
        module: str,
        target: str,
        parameters: Mapping[str, Value],
        *,
        mode: Mode | None,
        dry_run: bool = False,
        asker: int = 0,
    ) -> dict[str, Any]:
        found, where = bind(module, target)
        params = parse_parameters(found.manifest, parameters)
        check_requester(found.manifest, params, parameters, asker)
        name = f"{found.manifest.name}@{where.name}"
        if name in self._instances:
            raise KmindError(f"{name} is loaded already", hint=f"kmind unload {name}")
        instance = {
            "name": name,
            "module": found.manifest.name,
            "class": found.manifest.class_,
            "target": where.name,
            "mode": (mode or Mode.ADVISE).name.lower(),
            "state": "running",
            "params": params,
            "generation": 1,
        }
        if not dry_run:
            self._instances[name] = instance
            self.tell("start", instance=name)
        return dict(instance)

    def unload(self, name: str, *, force: bool = False) -> dict[str, Any]:
        self._instances.pop(name)
        self.tell("stop", instance=name)
        return {"changes": [], "restored": True, "failed": ""}

    def reload(self, name: str) -> dict[str, Any]:
        self._instances[name]["generation"] += 1
        return dict(self._instances[name])

    def set_mode(self, name: str, mode: Mode) -> dict[str, Any]:
        self._instances[name]["mode"] = mode.name.lower()
        self.tell("mode", instance=name, mode=mode.name.lower())
        return dict(self._instances[name])

    def models(self, name: str) -> list[dict[str, Any]]:
        slots = self._instances[name].get("models", [])
        return [each | {"active": number == 0} for number, each in enumerate(slots)]

    def deploy_model(self, name: str, data: bytes) -> dict[str, Any]:
        file = ModelFile.from_bytes(data)
        slots = self._instances[name].setdefault("models", [])
        before = slots[0]["hash"] if slots else None
        slots.insert(0, {"hash": file.hash, "version": len(slots) + 1})
        del slots[2:]
        return {"name": name, "hash": file.hash, "version": slots[0]["version"], "before": before}

    def rollback_model(self, name: str) -> dict[str, Any]:
        slots = self._instances[name].get("models", [])
        if len(slots) < 2:
            raise ModelError("there is no earlier model", hint="deploy one")
        slots.reverse()
        return {"name": name, **slots[0], "before": slots[1]["hash"]}

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        return [dict(each) for each in self._instances.values() if name in (None, each["name"])]

    def names(self) -> list[str]:
        return list(self._instances)

    def leases(self) -> list[dict[str, Any]]:
        return [
            {
                "knob": "block.read_ahead_kb", "target": each["target"], "holder": each["name"],
                "priority": 100, "expires_s": 1.0,
            }
            for each in self._instances.values()
        ]  # fmt: skip

    def fill(self) -> dict[str, dict[str, int]]:
        return {"leases": {"used": len(self._instances), "size": 2048}}

    def step(self, timeout_s: float) -> None:
        self.turns.end()
        try:
            call = self._calls.get(timeout=timeout_s)
        except queue.Empty:
            return
        finally:
            self.turns.begin()
        call()

    def submit(self, call: Callable[[], Any], *, reads: bool = False) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)

        self._calls.put(run)
        return future

    def subscribe(self, callback: Emit) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def close(self, *, keep: bool) -> None:
        if keep:
            self._file.write_text(json.dumps(self._instances))
        self._instances.clear()
        self.advice.close()
        self.findings.close()

    # Not of the interface

    def tell(self, name: str, **fields: Any) -> None:
        """Have an event happen."""
        self._publish(make(name, **fields))

    def _publish(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)

    def find(self, part: str = "", score: float = 2.0) -> str:
        """Have a detector find something; the id."""
        kind = FindingPart(name="slow", help="h", severity="warning", score="Times as slow.")
        found = Found(kind="slow", part=part, title="It is slow.", score=score)
        self.findings.find(_FINDER, kind, found)
        return _FINDER.id("finding", "slow", part)

    def file_report(self) -> str:
        """Have a reporter file a report with a file; the id."""
        filed = Filed(kind="failure", signature="s", title="It fails.", files={"a.csv": b"1,\0"})
        self.findings.file(_FINDER, ReportPart(name="failure", help="h"), filed)
        return _FINDER.id("report", "failure", "s")

    def advise(self, value: int = 512, knob: str = "block.read_ahead_kb") -> str:
        """Have an instance advise something; the id."""
        return str(
            self.advice.note(
                instance="readahead@vda",
                knob=knob,
                target="vda",
                value=value,
                current=128,
                verdict="advised",
                reason="Reads are at random.",
                evidence={"gain": 1.5},
                command=f"echo {value} > /sys/block/vda/queue/read_ahead_kb",
                rec_id=1,
            )
        )

    def apply_advice(self, advice: Mapping[str, Any]) -> int:
        """For the AdviceStore."""
        self._changes += 1
        return self._changes

    def undo_advice(self, change: int) -> str:
        """For the AdviceStore."""
        return ""


def main() -> None:
    from kmind.serve.daemon import Daemon
    from kmind.serve.process import run_daemon

    folder = Path(sys.argv[1])
    log = (folder / "log").open("a", buffering=1)

    def make() -> MemorySupervisor:
        if "--slow-start" in sys.argv:
            time.sleep(1)
        if "--broken" in sys.argv:
            raise KmindError("it cannot start", hint="do not ask it to")
        supervisor = MemorySupervisor(folder)
        if "--stuck" in sys.argv:
            threading.Timer(1, lambda: supervisor.submit(lambda: time.sleep(3600))).start()
        return supervisor

    def check() -> None:
        if (folder / "wrong").exists():
            raise KmindError("the policy is wrong", hint="correct it")

    def daemon(restarted: bool) -> Daemon:
        print(json.dumps({"event": "restarted" if restarted else "begun"}), file=log)
        return Daemon(
            make=make,
            check=check,
            emit=lambda event: print(json.dumps({"event": event.name, **event.fields()}), file=log),
            keep="--keep" in sys.argv,
        )

    run_daemon(daemon, run_dir=folder, socket=folder / "api.sock", before_exec=log.flush)
    gc.collect()
    frozen, left = gc.get_freeze_count(), len(gc.get_objects())
    print(json.dumps({"event": "over", "frozen": frozen, "left": left}), file=log)


if __name__ == "__main__":
    try:
        main()
    except KmindError as error:
        sys.exit(f"kmind: {error}")
