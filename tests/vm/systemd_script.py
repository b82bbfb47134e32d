# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service of systemd, tried in a guest; test_systemd.py judges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main"]

_DISK = "ram0"
_NAME = f"static@{_DISK}"
_VALUE = 256
_PATIENCE_S = 300.0  # emulated: what takes a second elsewhere may take half a minute
_CGROUPS = Path("/sys/fs/cgroup/kmind")
_CONFIG = Path("/etc/systemd/system/kmind.service.d/guest.conf")
_PATIENT = "[Service]\nTimeoutStartSec=300\n"


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def _said(name: str) -> str:
    return _run("systemctl", "show", "--value", "-p", name, "kmind").strip()


def _wait(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + _PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.2)
    return found


def _knob() -> int:
    return int(Path(f"/sys/block/{_DISK}/queue/read_ahead_kb").read_text())


def _held() -> bool:
    # A hold that ends while the daemon starts, slowly here, is undone and asked for again.
    return bool(_wait(lambda: _knob() == _VALUE))


def _instance() -> dict[str, Any]:
    def ask() -> Any:
        done = subprocess.run(["kmind", "status", "--json"], capture_output=True, text=True)
        found = json.loads(done.stdout)["instances"] if done.returncode == 0 else []
        return next((row for row in found if row["name"] == _NAME), None)

    found: dict[str, Any] = _wait(ask)
    return found


def it_starts() -> Any:
    _run("systemctl", "start", "kmind")
    return [_said(name) for name in ("ActiveState", "StatusText", "NRestarts")]


def it_loads_a_module() -> Any:
    stood = _knob()
    _run("kmind", "load", "static", _DISK, f"value={_VALUE}", "--mode", "auto")
    _wait(lambda: _knob() == _VALUE)
    pid = _instance()["extension"]["pid"]
    inside = Path(f"/proc/{pid}/cgroup").read_text().strip()
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    folder = _CGROUPS / _NAME
    limits = [(folder / f).read_text().split()[0] for f in ("memory.max", "pids.max", "cpu.max")]
    return [
        stood, inside.removeprefix("0::"), fields["CapEff"].strip(), fields["Seccomp"].strip(),
        fields["NoNewPrivs"].strip(), fields["Uid"].split()[0] != "0",
        limits,
    ]  # fmt: skip


def its_log_is_in_the_journal() -> Any:
    lines = _run("journalctl", "--no-pager", "-o", "json", "SYSLOG_IDENTIFIER=kmind").splitlines()
    rows = [json.loads(line) for line in lines]
    events = sorted({row["KMIND_EVENT"] for row in rows if "KMIND_EVENT" in row})
    return [events, all(json.loads(row["MESSAGE"]) for row in rows if "KMIND_EVENT" in row)]


def it_is_killed() -> Any:
    before, pid = _instance()["extension"]["pid"], int(_said("MainPID"))
    os.kill(pid, signal.SIGKILL)
    _wait(lambda: _said("MainPID") not in ("0", str(pid)) and _said("ActiveState") == "active")
    return [_said("NRestarts"), _held(), _instance()["extension"]["pid"] == before]


def it_hangs() -> Any:
    before, pid = _instance()["extension"]["pid"], int(_said("MainPID"))
    os.kill(pid, signal.SIGSTOP)
    _wait(lambda: _said("MainPID") not in ("0", str(pid)) and _said("ActiveState") == "active")
    return [_said("NRestarts"), _held(), _instance()["extension"]["pid"] == before]


def it_is_restarted_hot() -> Any:
    before, pid = _instance()["extension"]["pid"], _said("MainPID")
    started = _health_started()
    _run("systemctl", "kill", "--kill-whom=main", "--signal=USR2", "kmind")
    _wait(lambda: _health_started() > started)
    _wait(lambda: _said("StatusText") == "serving")
    now = _instance()["extension"]["pid"]
    return [_said("MainPID") == pid, _said("NRestarts"), _held(), now == before]


def _health_started() -> float:
    said = _python(
        "from pathlib import Path; from kmind.cli.client import Client; "
        "print(Client(Path('/run/kmind/api.sock')).get('/v1/health')['started'])"
    )
    return float(said or 0)


def _python(code: str) -> str:
    return subprocess.run(["python3", "-c", code], capture_output=True, text=True).stdout


def it_reads_its_policy_again() -> Any:
    _run("systemctl", "reload", "kmind")
    _wait(lambda: _said("ActiveState") == "active")
    return [_said("StatusText"), _held()]


def it_stops() -> Any:
    pid = _instance()["extension"]["pid"]
    _run("systemctl", "stop", "kmind")
    pins = [str(path) for path in Path("/sys/fs/bpf").rglob("*") if path.is_file()]
    return [_said("ActiveState"), _said("Result"), _knob(), Path(f"/proc/{pid}").exists(), pins]


TRIALS: tuple[Callable[[], Any], ...] = (
    it_starts,
    it_loads_a_module,
    its_log_is_in_the_journal,
    it_is_killed,
    it_hangs,
    it_is_restarted_hot,
    it_reads_its_policy_again,
    it_stops,
)


def main() -> dict[str, Any]:
    """The result of each trial by its name, or the trace of what went wrong."""
    _CONFIG.parent.mkdir(parents=True)
    _CONFIG.write_text(_PATIENT)
    _run("systemctl", "daemon-reload")
    found: dict[str, Any] = {}
    for trial in TRIALS:
        began = time.monotonic()
        try:
            found[trial.__name__] = trial()
        except Exception:
            found[trial.__name__] = traceback.format_exc()
        print(f"{trial.__name__}: {time.monotonic() - began:.0f} s", flush=True)
    return found
