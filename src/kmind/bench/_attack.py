# SPDX-License-Identifier: Apache-2.0
"""``bench admission --attack``: turns of the owner of a real daemon, while others cost it time.

Each attack has a daemon of its own with three instances; the owner's own histogram of turns is read
before and after. ``worst_ms`` is the upper end of the class that holds the longest turn, up
to 9% above it. Turns with a change that the bench itself asks for stand apart (``asked``).
"""

from __future__ import annotations

import http.client
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.bench._attack_client import Connection, asking_in_a_loop, server
from kmind.bench._daemon import loops
from kmind.bench._hostile_module import write_hostile_module
from kmind.errors import KmindError
from kmind.runtime.supervisor.turn_times import quantile
from kmind.testing.daemon import DaemonHost

__all__ = ["ATTACKS", "Scene", "compare", "run_attacks", "stir"]

_SECONDS, _QUICK_S = 10.0, 3.0
_CLIENTS = 64
_OPEN_FILES = 20_000
_VALUE = 1024
_PATIENCE_S = 20.0
_HUP_S = 0.25
_NOBODY = 65534
_KNOB = "block.read_ahead_kb"
_POLICY = f'[knob."{_KNOB}"]\nrate = "6000 per minute"\nburst = 100\n'
_PARAMETER = """
[[parameter]]
name = "attack"
type = "enum"
choices = ["none", "print", "refuse"]
default = "none"
help = "what to do"
"""
# Takes a lock on each byte that SQLite locks in its shared memory, as whoever may open it.
_LOCKER = """
import fcntl, os, sys, time
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
held = []
for path in sys.argv[1:]:
    try:
        held.append(open(path, "rb"))
        fcntl.lockf(held[-1], fcntl.LOCK_SH, 128, 0)
    except OSError as error:
        print(path, error.strerror, file=sys.stderr)
print(len(held), flush=True)
time.sleep(3600)
"""
_OPENER = """
import os, resource, sys, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
held = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(int(sys.argv[2]))]
print(len(held), flush=True)
time.sleep(3600)
"""
_POLICIES = (
    "forbidden = " + "[" * 3000,
    f'[knob."{_KNOB}"]\nmax = ' + "9" * 5000,
    f'[knob."{_KNOB}"]\nmax = 1e999\n',
    "a = " + "{ b = " * 2000,
    "\x00\xff" * 100,
)


@dataclass
class Scene:
    """Setting of an attack: ``disk`` is the hostile module's, and mounted at ``mount``."""

    host: DaemonHost
    folder: Path
    disk: str
    other: str
    mount: Path
    connection: Connection
    seconds: float

    def owner(self) -> dict[str, Any]:
        """Return the owner's turn times from the daemon's health report."""
        health: dict[str, Any] = self.connection.ask("GET", "/v1/health")
        return dict(health["owner"])

    def mode(self, instance: str, mode: str) -> None:
        """Move an instance to a mode."""
        self.connection.ask("PUT", f"/v1/instances/{instance}/mode", {"mode": mode})

    def switch(self) -> None:
        """Have the disk's other instance set its knob and undo it, until the time is over."""
        self.until_over(self._switch_once)

    def _switch_once(self) -> None:
        self.mode(f"static@{self.disk}", "auto")
        knob = Path(f"/sys/block/{self.disk}/queue/read_ahead_kb")
        until = time.monotonic() + _PATIENCE_S
        while int(knob.read_text()) != _VALUE:
            if time.monotonic() > until:
                raise KmindError(f"{knob} was not set", hint="see the daemon's log")
            stir(self.disk)
            time.sleep(0.02)
        self.mode(f"static@{self.disk}", "advise")

    def until_over(self, call: Callable[[], object]) -> None:
        """Call again and again."""
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            call()


def _quiet(scene: Scene) -> None:
    time.sleep(scene.seconds)


def _clients(scene: Scene) -> None:
    with asking_in_a_loop(scene.host.socket, _CLIENTS, "/v1/instances"):
        time.sleep(scene.seconds)


def _module_clients(scene: Scene) -> None:
    # The longest work of the API beside the owner.
    with asking_in_a_loop(scene.host.socket, _CLIENTS, "/v1/modules"):
        time.sleep(scene.seconds)


def _open_files(scene: Scene) -> None:
    file = scene.mount / "file"
    file.write_bytes(bytes(4096))
    file.chmod(0o644)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = min(most - 64, _OPEN_FILES)
    with ExitStack() as stack:
        for first in range(0, _OPEN_FILES, each):
            count = min(each, _OPEN_FILES - first)
            stack.enter_context(_helper(_OPENER, str(file), str(count)))
        scene.switch()


def _locks(scene: Scene) -> None:
    paths = [str(path) for path in sorted((scene.folder / "state").glob("*.db*"))]
    with _helper(_LOCKER, *paths):
        scene.switch()


def _switching(scene: Scene) -> None:
    scene.switch()


def _stalled(scene: Scene) -> None:
    _objective(scene, answers=False)


def _answering(scene: Scene) -> None:
    _objective(scene, answers=True)


def _objective(scene: Scene, *, answers: bool) -> None:
    # Through all ends that an objective has: emergency, reload, unload.
    name = f"autotune@{scene.other}"
    with server(answers=answers) as port:
        body = {
            "module": "autotune", "target": scene.other, "mode": "advise",
            "parameters": {
                "objective": f"prometheus:http://127.0.0.1:{port}?query=x", "better": "higher",
                "knobs": _KNOB,
            },
        }  # fmt: skip

        def once() -> None:
            scene.connection.ask("POST", "/v1/instances", body)
            time.sleep(1.0)
            scene.mode(name, "emergency")
            scene.connection.ask("POST", f"/v1/instances/{name}/reload")
            time.sleep(1.0)
            scene.connection.ask("DELETE", f"/v1/instances/{name}")

        scene.until_over(once)


def _hang_up(scene: Scene) -> None:
    daemon = scene.host.daemon
    if daemon is None:
        raise KmindError("the daemon has ended")
    before = scene.connection.ask("GET", "/v1/health")["started"]
    policy = scene.folder / "policy.toml"
    try:
        turns = iter(range(1 << 30))

        def once() -> None:
            text = _POLICIES[next(turns) % len(_POLICIES)]
            policy.write_bytes(text.encode("latin-1"))
            daemon.send_signal(signal.SIGHUP)
            time.sleep(_HUP_S)

        scene.until_over(once)
    finally:
        policy.write_text(_POLICY)
    if scene.connection.ask("GET", "/v1/health")["started"] != before:
        raise KmindError("a hostile policy made the daemon start anew")


@dataclass(frozen=True)
class _Attack:
    name: str
    run: Callable[[Scene], None]
    extension: str = "none"


ATTACKS = (
    _Attack("none", _quiet),
    _Attack("64 clients in a loop", _clients),
    _Attack("64 clients that list modules", _module_clients),
    _Attack("printed newlines", _quiet, "print"),
    _Attack("refusals", _quiet, "refuse"),
    _Attack("none, values set", _switching),
    _Attack("20,000 open files, values set", _open_files),
    _Attack("databases locked, values set", _locks),
    _Attack("none, objective that answers", _answering),
    _Attack("objective that stalls", _stalled),
    _Attack("SIGHUP with hostile policies", _hang_up),
    _Attack("none, again", _quiet),
)
"""In the order in which they are made; "none" is the same without an attack."""


def run_attacks(*, quick: bool, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Make each attack; keys of the result: ``attacks``, ``failed`` and the two longest turns.

    ``worst_ms`` is under attacks, ``quiet_worst_ms`` without; ``failed`` says of each attack that
    ended the daemon, or could not be made, why.
    """
    tell = say or (lambda line: print(line, file=sys.stderr, flush=True))
    seconds = _QUICK_S if quick else _SECONDS
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for attack in ATTACKS:
        try:
            row = {"attack": attack.name} | _measure(attack, seconds)
        except (KmindError, OSError, http.client.HTTPException) as error:
            failed[attack.name] = f"{error}" or type(error).__name__
            tell(f"{attack.name}: failed: {error}")
            continue
        tell(f"{attack.name}: {row['turns']} turns, p99 {row['p99_ms']}, worst {row['worst_ms']}")
        rows.append(row)
    quiet = [row["worst_ms"] for row in rows if row["attack"].startswith("none")]
    under = [row["worst_ms"] for row in rows if not row["attack"].startswith("none")]
    worst = {"worst_ms": max(under, default=0.0), "quiet_worst_ms": max(quiet, default=0.0)}
    return {"attacks": rows, **worst, "failed": failed}


def _measure(attack: _Attack, seconds: float) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="kmind-attack-") as name,
        _scene(Path(name), seconds) as scene,
    ):
        module = write_hostile_module(scene.folder, _PARAMETER, "_attack_extension.py")
        scene.host.kmind("load", str(module), scene.disk, f"attack={attack.extension}")
        scene.host.kmind("load", "static", scene.disk, f"value={_VALUE}", "--mode=advise")
        scene.host.kmind("load", "slowio", scene.other)
        for path in (scene.disk, scene.other):
            stir(path)
        time.sleep(min(seconds, 3.0))
        before, began = scene.owner(), time.monotonic()
        attack.run(scene)
        return compare(before, scene.owner(), time.monotonic() - began)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The turns between two readings: number, p99, worst and share of the time.

    Those that begin with ``cpu_`` are of the thread's CPU time, which a busy machine does not move.
    """
    row: dict[str, Any] = {}
    for prefix, old, new in (
        ("", before, after),
        ("cpu_", before["cpu"], after["cpu"]),
        ("asked_", before["asked"], after["asked"]),
        ("asked_cpu_", before["asked"]["cpu"], after["asked"]["cpu"]),
    ):
        counts = {
            int(index): count - old["counts"].get(index, 0)
            for index, count in new["counts"].items()
        }
        if "cpu" not in prefix:
            row[f"{prefix}turns"] = sum(counts.values())
        row[f"{prefix}p99_ms"] = round(quantile(counts, 0.99), 3)
        row[f"{prefix}worst_ms"] = round(quantile(counts, 1.0), 3)
        busy = 100 * (new["total_s"] - old["total_s"]) / seconds
        row[f"{prefix}busy_percent"] = round(busy, 2)
    return row


@contextmanager
def _scene(folder: Path, seconds: float) -> Iterator[Scene]:
    folder.chmod(0o711)  # attacks by a user come through it
    with ExitStack() as stack:
        disk, other = stack.enter_context(loops(2))
        mount = stack.enter_context(_mounted(disk, folder / "mnt"))
        host = stack.enter_context(DaemonHost.open(folder))
        policy = folder / "policy.toml"
        policy.write_text(_POLICY)
        host.start(f"--policy={policy}")
        connection = Connection(host.socket)
        stack.callback(connection.close)
        yield Scene(host, folder, disk, other, mount, connection, seconds)
        for row in connection.ask("GET", "/v1/instances")["instances"]:
            host.kmind("unload", row["name"])
        host.end()


@contextmanager
def _mounted(disk: str, place: Path) -> Iterator[Path]:
    place.mkdir()
    node = f"/dev/{disk}"
    for words in (["mkfs.ext4", "-q", node], ["mount", node, str(place)]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KmindError(f"{' '.join(words)}: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


@contextmanager
def _helper(code: str, *words: str) -> Iterator[int]:
    # A process of the user nobody, that says when it is ready; its id.
    command = [sys.executable, "-c", code.format(nobody=_NOBODY), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise KmindError("a helper of the attack did not start")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def stir(disk: str) -> None:
    """Read a little of a disk, so that a window of its agents closes."""
    fd = os.open(f"/dev/{disk}", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for place in range(64):
            os.pread(fd, 4096, place << 16)
    finally:
        os.close(fd)
