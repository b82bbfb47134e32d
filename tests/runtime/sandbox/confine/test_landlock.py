# SPDX-License-Identifier: Apache-2.0
"""Landlock alone, tried as root: what it refuses, nothing else would."""

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from programs import machine_lacks

from kmind.bpf import landlock
from kmind.bpf.landlock import landlock_version
from kmind.errors import NotSupportedError
from kmind.runtime.sandbox.confine import privileges

TRY = """\
import ctypes, os, socket, sys
sys.path[:0] = {path!r}
from kmind.runtime.sandbox.confine import landlock
held = open("/proc/self/status")
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs
landlock.restrict({files!r}, network={network!r})


def attempt(name, call):
    try:
        call()
    except OSError as error:
        print(name, error.strerror)
    else:
        print(name, "done")


def connect():
    with socket.socket() as end:
        end.connect(("127.0.0.1", {port}))


def bind():
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))


def abstract():
    with socket.socket(socket.AF_UNIX) as end:
        end.connect("\\0kmind-test-{pid}")


attempt("held", held.read)
attempt("passwd", lambda: open("/etc/passwd").read())
attempt("proc", lambda: open("/proc/{pid}/status").read())
attempt("root", lambda: os.listdir("/"))
attempt("allowed", lambda: open({allowed!r}).read())
attempt("below", lambda: os.listdir({folder!r}))
attempt("write", lambda: open({allowed!r}, "a"))
attempt("truncate", lambda: os.truncate({allowed!r}, 0))
attempt("make", lambda: open({folder!r} + "/new", "w"))
attempt("remove", lambda: os.unlink({allowed!r}))
attempt("execute", lambda: os.posix_spawn("/bin/true", ["true"], {{}}))
attempt("signal", lambda: os.kill({pid}, 0))
attempt("tcp", connect)
attempt("bind", bind)
attempt("abstract", abstract)
"""


@pytest.fixture
def version() -> int:
    """Landlock's version; skips where there is none."""
    try:
        return landlock_version()
    except NotSupportedError as error:
        machine_lacks(str(error))


def attempts(tmp_path: Path, *, files: tuple[str, ...], network: bool = False) -> dict[str, str]:
    """Return the result of each attempt: "done", or the error."""
    folder = tmp_path / "folder"
    folder.mkdir()
    allowed = folder / "allowed"
    allowed.write_text("text")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0kmind-test-{os.getpid()}")
        abstract.listen()
        text = TRY.format(
            path=sys.path, files=[str(tmp_path / file) for file in files], network=network,
            pid=os.getpid(), allowed=str(allowed), folder=str(folder),
            port=server.getsockname()[1],
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=True
        )
    assert allowed.read_text() == "text"
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


DENIED = "Permission denied"


def test_nothing_but_what_is_open(version: int, tmp_path: Path) -> None:
    found = attempts(tmp_path, files=())
    assert found.pop("held") == "done"
    for name, since in (("tcp", 4), ("bind", 4), ("abstract", 6), ("signal", 6), ("truncate", 3)):
        if version < since:
            del found[name]
    assert set(found.values()) <= {DENIED, "Operation not permitted"}


def test_named_file_is_for_reading(version: int, tmp_path: Path) -> None:
    found = attempts(tmp_path, files=("folder/allowed",))
    assert [name for name, end in found.items() if end == "done"] == ["held", "allowed"]


def test_named_folder_stands_for_what_is_below(version: int, tmp_path: Path) -> None:
    found = attempts(tmp_path, files=("folder",))
    assert [name for name, end in found.items() if end == "done"] == ["held", "allowed", "below"]


def test_network_where_it_is_asked_for(version: int, tmp_path: Path) -> None:
    found = attempts(tmp_path, files=(), network=True)
    assert found["tcp"] == "done"
    assert found["abstract"] == "done" if version < 6 else found["abstract"] != "done"
    assert found["passwd"] == DENIED


def test_named_file_that_is_absent(version: int, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        attempts(tmp_path, files=("absent",))
    assert "absent cannot be opened: No such file or directory" in failed.value.stderr


@pytest.mark.parametrize(
    ("number", "words"),
    [(38, "the kernel lacks it"), (95, "it is switched off; add landlock to lsm=")],
)
def test_says_why_there_is_none(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    class Refusing:
        @staticmethod
        def syscall(*words: object) -> int:
            ctypes.set_errno(number)
            return -1

    monkeypatch.setattr(landlock, "_libc", Refusing)
    with pytest.raises(NotSupportedError, match=words):
        landlock_version()
    lacking = privileges._fence_off(["/usr/lib"], ["/etc/hosts"], False)
    assert len(lacking) == 1
    assert "the filter on system calls alone; /etc/hosts cannot be read" in lacking[0]
