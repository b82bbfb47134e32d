# SPDX-License-Identifier: Apache-2.0
"""Privileges given up for good, before code of a module runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from extension_process import QUIET, Running, running

from kmind.runtime.sandbox.uids import free_uid

if TYPE_CHECKING:
    pass
from runtime.sandbox.prisoner import READER, status_of

pytestmark = pytest.mark.kernel()

PRISONER = '''
import ctypes, importlib, mmap, os, resource, select, signal, socket, subprocess, threading
from kmind.extension import Extension


class Sample(Extension):
    """Tries what it must not be able to do, and logs how each try ends."""

    def start(self):
        libc = ctypes.CDLL(None, use_errno=True)
        mine, owner, victim = os.getpid(), os.getppid(), self.context.params["victim"]
        room = ctypes.create_string_buffer(4096)

        def call(name, *args):
            ctypes.set_errno(0)
            if getattr(libc, name)(*args) < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        def system_call(number, *args):
            call("syscall", number, *args)

        tries = {
            # files
            "read_passwd": lambda: open("/etc/passwd"),
            "read_shadow": lambda: open("/etc/shadow"),
            "read_own_status": lambda: open("/proc/self/status"),
            "read_owner_memory": lambda: open(f"/proc/{owner}/mem", "rb"),
            "read_owner_maps": lambda: open(f"/proc/{owner}/maps"),
            "read_owner_environment": lambda: open(f"/proc/{owner}/environ"),
            "list_owner_files": lambda: os.listdir(f"/proc/{owner}/fd"),
            "list_root": lambda: os.listdir("/"),
            "write_file": lambda: open("/tmp/kmind-escape", "w"),
            "write_knob": lambda: open("/proc/sys/vm/swappiness", "w"),
            "open_old_way": lambda: system_call(2, b"/etc/passwd", 0),
            "openat2": lambda: system_call(437, -100, b"/etc/passwd", room, 24),
            "open_by_handle": lambda: system_call(304, -100, room, 0),
            "memfd": lambda: os.memfd_create("escape"),
            "pipe": lambda: os.pipe(),
            "dup": lambda: os.dup(1),
            "change_folder": lambda: os.chdir("/tmp"),
            "change_root": lambda: os.chroot("/tmp"),
            "unlink": lambda: os.unlink("/tmp/x"),
            "chmod": lambda: os.chmod("/tmp", 0o777),
            # programs and processes
            "fork": lambda: os._exit(0) if os.fork() == 0 else None,
            "exec": lambda: os.execv("/bin/true", ["true"]),
            "run": lambda: subprocess.run(["/bin/true"]),
            "thread": lambda: threading.Thread(target=int).start(),
            "kill_owner": lambda: os.kill(owner, signal.SIGKILL),
            "kill_init": lambda: os.kill(1, signal.SIGTERM),
            "kill_victim": lambda: os.kill(victim, signal.SIGKILL),
            "kill_all": lambda: os.kill(-1, signal.SIGKILL),
            "pidfd_open": lambda: os.pidfd_open(victim),
            "queue_signal": lambda: system_call(129, victim, 9, room),
            "ptrace_owner": lambda: call("ptrace", 16, owner, 0, 0),
            "read_owner": lambda: system_call(310, owner, room, 1, room, 1, 0),
            "write_owner": lambda: system_call(311, owner, room, 1, room, 1, 0),
            "slow_owner": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
            "set_affinity": lambda: os.sched_setaffinity(victim, {0}),
            "set_owner_limit": lambda: resource.prlimit(owner, resource.RLIMIT_NOFILE, (1, 1)),
            # sockets
            "socket_ip": lambda: socket.socket(),
            "socket_unix": lambda: socket.socket(socket.AF_UNIX),
            "socket_netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            "socket_raw": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
            "socketpair": lambda: socket.socketpair(),
            # the kernel
            "bpf": lambda: system_call(321, 0, room, 128),
            "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
            "unmount": lambda: call("umount", b"/proc"),
            "new_namespace": lambda: call("unshare", 0x10000000),
            "join_namespace": lambda: call("setns", 1, 0),
            "io_uring": lambda: system_call(425, 1, room),
            "perf": lambda: system_call(298, room, 0, -1, -1, 0),
            "userfault": lambda: system_call(323, 0),
            "module": lambda: system_call(175, room, 10, b""),
            "kexec": lambda: system_call(246, 0, 0, 0, 0),
            "key": lambda: system_call(248, b"user", b"x", b"y", 1, -3),
            "reboot": lambda: call("reboot", 0),
            "set_clock": lambda: call("settimeofday", room, None),
            "host_name": lambda: call("sethostname", b"x", 1),
            "kernel_log": lambda: call("klogctl", 3, room, 10),
            "ioctl": lambda: call("ioctl", 1, 0x5412, room),
            "loosen_seccomp": lambda: call("prctl", 22, 0, 0, 0, 0),
            "be_dumpable": lambda: call("prctl", 4, 1, 0, 0, 0),
            # itself
            "become_root": lambda: os.setuid(0),
            "become_other": lambda: os.setresuid(1000, 1000, 1000),
            "join_group": lambda: os.setgroups([0]),
            "raise_limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
            "eat_descriptors": lambda: select.epoll(),
            "eat_memory": lambda: mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE),
            "eat_page_tables": lambda: mmap.mmap(
                -1, 32 << 30, flags=mmap.MAP_PRIVATE | 0x4000, prot=mmap.PROT_READ
            ),
            "lock_memory": lambda: call("mlock", room, 4096),
            "shared_memory": lambda: mmap.mmap(-1, 4096),
            "shared_validated": lambda: mmap.mmap(-1, 4096, flags=0x23),
            "shared_to_read": lambda: mmap.mmap(-1, 4096, flags=0x21, prot=mmap.PROT_READ),
            "growing_memory": lambda: mmap.mmap(-1, 4096, flags=0x122),
            "huge_pages": lambda: mmap.mmap(-1, 2 << 20, flags=0x40022),
            "size_of_passwd": lambda: os.stat("/etc/passwd"),
            "size_of_knob": lambda: os.lstat("/proc/sys/vm/swappiness"),
            "size_the_old_way": lambda: system_call(4, b"/etc/passwd", room),
            "size_by_statx": lambda: system_call(332, -100, b"/etc/passwd", 0, 0x7FF, room),
            "is_it_there": lambda: system_call(21, b"/etc/passwd", 0),
            "import_late": lambda: importlib.import_module("wave"),
            "import_side_effects": lambda: importlib.import_module("antigravity"),
        }
        for name, attempt in tries.items():
            try:
                attempt()
            except (OSError, ValueError, ImportError, RuntimeError, MemoryError) as error:
                self.context.log(f"refused {name}: {error}")
            else:
                self.context.log(f"SUCCEEDED {name}")
        self.context.log(f"{len(tries)} tried")
        self.context.log(f"folder {os.getcwd()}")
        self.context.log(f"environment {sorted(os.environ)}")

    def status(self):
        return {}
'''


def check_prisoner(run: Running) -> None:
    run.until(lambda: run.said("environment ") or run.process.ended() is not None)
    assert not [line for line in run.lines if line.startswith("SUCCEEDED")]
    refused = [line for line in run.lines if line.startswith("refused")]
    assert run.said("tried") == f"{len(refused)} tried"
    assert len(refused) > 50
    late = run.said("import_late")
    assert "wave cannot be imported any more: the sandbox is shut" in late
    assert "add it to imports of [extension] in module.toml" in late
    side = run.said("import_side_effects")
    assert "antigravity is none of the standard modules that an extension may import" in side
    assert "folder /" in run.lines
    assert "environment []" in run.lines
    run.alive()


@pytest.mark.parametrize("kept", [False, True])
def test_tried_from_inside(tmp_path: Path, kept: bool) -> None:
    with subprocess.Popen(["sleep", "1000"]) as victim:
        try:
            log = str(tmp_path / "log") if kept else ""
            params = {"victim": victim.pid}
            with running(tmp_path, PRISONER, params=params, keep=kept, log=log) as run:
                check_prisoner(run)
            assert victim.poll() is None
        finally:
            victim.kill()


PACKAGE = """\
import ctypes, mmap, os, socket

PASSWD = os.open("/proc/self/status", os.O_RDONLY) if os.path.exists("/proc/self") else None
libc = ctypes.CDLL(None, use_errno=True)
FOUND = []


def attempt(name, call):
    try:
        result = call()
    except OSError as error:
        FOUND.append(f"{name}: refused, {error.strerror}")
    else:
        FOUND.append(f"{name}: {result!r}")


def system_call(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


FOUND.append(f"ids: {os.getuid()} {os.geteuid()} {os.getgid()}")
attempt("passwd", lambda: open("/etc/passwd").read())
attempt("seen", lambda: os.stat("/etc/passwd"))
attempt("write", lambda: open(__file__, "a"))
attempt("new", lambda: open("/new", "w"))
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("socket", socket.socket)
attempt("shared", lambda: mmap.mmap(-1, 4096))
attempt("setuid", lambda: os.setuid(0))
attempt("unshare", lambda: system_call(272, 0x20000))
attempt("bpf", lambda: system_call(321, 0, 0, 0))
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("dumpable", lambda: system_call(157, 4, 1, 0, 0, 0))
attempt("folder", lambda: os.listdir("/work"))
"""
IMPORTER = """\
import string

import package_of_others
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        for line in package_of_others.FOUND:
            self.context.log(line)
        self.context.log("all told " + string.digits)

    def status(self):
        return {}
"""


def interpreters() -> list[str]:
    # Debian's too, where it is of the version that numpy here was built for.
    other = "/usr/bin/python3"
    words = [other, "-c", "import sys; print(sys.version_info[:2])"]
    if not Path(other).exists() or Path(other).samefile(sys.executable):
        return [sys.executable]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return [sys.executable, *([other] if found == str(sys.version_info[:2]) else [])]


@pytest.mark.parametrize("interpreter", interpreters())
def test_imports_run_without_any_privilege(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    """A package that the manifest names is imported by a user who can do nothing with it."""
    others = tmp_path / "others"
    others.mkdir()
    (others / "package_of_others.py").write_text(PACKAGE)
    # pytest's folder is root's alone, as the one that an interpreter may lie in.
    assert tmp_path.stat().st_mode & 0o077 == 0
    monkeypatch.syspath_prepend(str(others))
    if interpreter != sys.executable:
        standard = Path(os.__file__).parent
        own = [p for p in sys.path if not (p.startswith(str(standard)) or p.endswith(".zip"))]
        monkeypatch.setattr(sys, "path", own)
        monkeypatch.setattr(sys, "executable", interpreter)
    mounts = Path("/proc/self/mountinfo").read_text()
    with running(tmp_path, IMPORTER, imports=("package_of_others",)) as run:
        run.until(lambda: run.said("all told"))
        status = status_of(run.process.pid)
        # Of the system's folders only the libraries are there, and none is the host's own.
        seen = {path.name for path in Path(f"/proc/{run.process.pid}/root").iterdir()}
        assert not seen & {"proc", "sys", "dev", "run", "var", "boot"}
    assert Path("/proc/self/mountinfo").read_text() == mounts
    found = dict(line.split(": ", 1) for line in run.lines if ": " in line)
    uid = status["Uid"].split()[0]
    assert uid != "0"
    assert found.pop("ids") == f"{uid} {uid} {uid}"
    assert len(found) == 14
    assert {name: end for name, end in found.items() if not end.startswith("refused")} == {}


def test_without_a_user_of_its_own_the_fences_stand(tmp_path: Path) -> None:
    # As for one who is not root; here as root, so that only they can refuse.
    params = {"allowed": "/etc/hostname", "port": 1}
    with running(tmp_path, READER, params=params, uid=None) as run:
        run.until(lambda: run.said("all tried"))
        status = status_of(run.process.pid)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for name in ("read", "list", "write", "other", "connect", "unix", "listen"):
        assert run.said(f"{name}: refused"), name


def test_two_extensions_have_two_users(tmp_path: Path) -> None:

    with running(tmp_path) as run:
        run.alive()
        mine = int(status_of(run.process.pid)["Uid"].split()[0])
        assert free_uid(str(tmp_path)) != mine


def test_signals_that_it_may_catch_do_not_keep_it_alive(tmp_path: Path) -> None:
    source = QUIET.replace("from kmind", "import signal\nfrom kmind", 1).replace(
        "    def status",
        "    def start(self):\n"
        "        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "            signal.signal(number, signal.SIG_IGN)\n\n"
        "    def status",
    )
    with running(tmp_path, source) as run:
        run.alive()
        os.kill(run.process.pid, signal.SIGTERM)
        run.alive()
        run.process.close()
        assert run.process.ended() == -signal.SIGKILL
