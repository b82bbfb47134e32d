# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager, and descriptors that outlive an exec."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kmind.serve.notify import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_hears(tmp_path: Path, abstract: bool) -> None:
    name = f"@kmind-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000"})
        assert notifier.watchdog_s == 3.0
        notifier.ready("serving")
        assert manager.recv(4096).decode().splitlines() == [
            "READY=1", f"MAINPID={os.getpid()}", "STATUS=serving",
        ]  # fmt: skip
        notifier.alive()
        assert manager.recv(4096) == b"WATCHDOG=1"
        notifier.reloading()
        assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        notifier.stopping("bye")
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=bye"


def test_a_manager_that_is_gone_or_full_holds_up_nobody(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "full"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "full")})
        for _ in range(10_000):
            notifier.alive()


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s == 0
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog_s == 0


EXEC = """
import os, sys
from kmind.serve.notify import inherited, pass_on
if len(sys.argv) == 1:
    a, b = os.open("/dev/zero", os.O_RDONLY), os.memfd_create("b")
    os.write(b, b"hello")
    # Whatever numbers they have: also those of each other.
    order = {"a": a, "b": b} if a < b else {"b": b, "a": a}
    os.execve(sys.executable, [sys.executable, __file__, "again"], pass_on(
        dict(reversed(order.items()))))
found = inherited()
import json
print(json.dumps({
    "names": sorted(found),
    "a": os.read(found["a"], 1).hex(),
    "b": os.pread(found["b"], 9, 0).decode(),
    "inheritable": [os.get_inheritable(fd) for fd in found.values()],
    "left": [name for name in os.environ if name.startswith("LISTEN_")],
    "again": inherited(),
}))
"""


def test_descriptors_outlive_an_exec(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(EXEC)
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": source},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "names": ["a", "b"], "a": "00", "b": "hello",
        "inheritable": [False, False], "left": [], "again": {},
    }  # fmt: skip


def test_descriptors_of_another_process_are_not_taken() -> None:
    code = "from kmind.serve.notify import inherited; print(inherited())"
    env = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "{}\n"
