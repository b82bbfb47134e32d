# SPDX-License-Identifier: Apache-2.0
"""The extension's process holds nothing: seen from outside, and tried from inside."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from extension_process import QUIET, Running, running

from kmind.bpf.landlock import landlock_version
from kmind.errors import NotSupportedError
from kmind.runtime.sandbox import privileges
from kmind.runtime.sandbox.exit_codes import EXIT_SETUP
from kmind.runtime.sandbox.uids import FIRST_UID, LAST_UID, free_uid

if TYPE_CHECKING:
    from conftest import Bench

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


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines())


def open_files(pid: int) -> dict[int, str]:
    return {int(entry.name): str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def test_seen_from_outside(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.alive()
        pid = run.process.pid
        status = status_of(pid)
        uids = status["Uid"].split()
        assert len(set(uids)) == 1
        assert FIRST_UID <= int(uids[0]) <= LAST_UID < 61184  # from there on systemd's
        assert status["Gid"].split() == uids
        assert status["Groups"].split() == []
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Threads"] == "1"
        assert int(status["Umask"], 8) == 0o777
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        files = open_files(pid)
        assert files.pop(0) == "/dev/null"
        assert files.pop(1).startswith("pipe:")
        assert files.pop(2).startswith("pipe:")
        assert list(files.values()) == ["anon_inode:[eventfd]"]  # the doorbell
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0  # not dumpable


def test_no_descriptor_leaks_into_it(tmp_path: Path) -> None:
    # Not even one that its owner forgot to mark.
    with tmp_path.joinpath("secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with running(tmp_path, keep=True, log=str(tmp_path / "log")) as run:
            run.alive()
            files = open_files(run.process.pid)
            assert files.pop(0) == "/dev/null"
            assert files.pop(1) == files.pop(2) == str(tmp_path / "log")
            assert list(files.values()) == ["anon_inode:[eventfd]"]


@pytest.mark.kernel("libbpf", "btf", "arena", "bpf_timer", "tp_btf", "tp_filemap")
def test_descriptors_beside_a_real_agent(bench: "Bench") -> None:
    bench.start("observe")
    assert bench.instance
    files = open_files(bench.instance.extension_pid)
    assert sorted(files)[:3] == [0, 1, 2]
    assert [files[fd] for fd in sorted(files)[3:]] == ["anon_inode:bpf-map"]


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


def test_a_package_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others/package_that_exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path / "others"))
    with running(tmp_path, imports=("package_that_exits",)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("package_that_exits cannot be imported: SystemExit: 0"))


def test_a_file_that_its_user_cannot_get_at_is_not_brought_into_reach(tmp_path: Path) -> None:
    """A mount would do that: a file that all may read, in a folder that is root's alone."""
    secret = tmp_path / "hidden"
    secret.mkdir(mode=0o700)
    (secret / "open").write_text("x")
    with running(tmp_path, files=(str(secret / "open"),)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("cannot be opened: Permission denied"))


def test_a_source_that_is_a_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET = 1")
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "more.py").symlink_to(secret)
    with running(tmp_path) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("more.py is a link"))


READER = """\
import os
import socket
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        for name, attempt in {
            "read": lambda: open(self.context.params["allowed"]).read(),
            "list": lambda: os.listdir(os.path.dirname(self.context.params["allowed"])),
            "write": lambda: open(self.context.params["allowed"], "a"),
            "other": lambda: open("/etc/passwd"),
            "connect": self.connect,
            "unix": lambda: socket.socket(socket.AF_UNIX),
            "listen": lambda: socket.create_server(("127.0.0.1", 0)),
        }.items():
            try:
                self.context.log(f"{name}: {attempt()!r}")
            except OSError as error:
                self.context.log(f"{name}: refused, {error}")
            except LookupError as error:  # an encoding that only a network needs
                self.context.log(f"{name}: refused, {error}")
        self.context.log("all tried")

    def connect(self):
        port = self.context.params["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as end:
            return end.recv(5)

    def status(self):
        return {}
"""


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("network", [False, True])
def test_what_the_manifest_asks_for_and_no_more(tmp_path: Path, files: bool, network: bool) -> None:
    landlock_version()
    folder = tmp_path / "given"
    folder.mkdir()
    allowed = folder / "model"
    allowed.write_text("weights")
    for path in (allowed, folder, *tmp_path.parents, tmp_path):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)  # the extension's user has to get there
    with socket.create_server(("127.0.0.1", 0)) as server:
        params = {"allowed": str(allowed), "port": server.getsockname()[1]}
        given = (str(folder),) if files else ()
        with running(tmp_path, READER, params=params, files=given, network=network) as run:
            if network:
                server.settimeout(30)
                run.until(lambda: run.said("write: "))
                with server.accept()[0] as end:
                    end.sendall(b"hello")
            run.until(lambda: run.said("all tried"))
            run.alive()
    found = dict(line.split(": ", 1) for line in run.lines if ": " in line)
    assert found["read"] == "'weights'" if files else found["read"].startswith("refused")
    assert found["list"] == "['model']" if files else found["list"].startswith("refused")
    assert found["connect"] == "b'hello'" if network else found["connect"].startswith("refused")
    for never in ("write", "other", "unix", "listen"):
        assert found[never].startswith("refused"), never


def without_own_root(out: int, allowed: str) -> None:
    """In a process of its own: drop everything where no mount namespace can be made."""

    def refused(*_: object) -> None:
        raise NotSupportedError("no file system of its own: the test says so")

    os.dup2(out, 3)
    os.closerange(4, 1 << 16)  # an extension has few files, and its limit is low
    out = 3
    # The interpreter of the tests may be out of reach then, and nothing is imported here.
    reach = patch.object(privileges, "_in_reach", lambda libraries, lacking: [])
    with reach, patch.object(privileges, "enter_own_root", refused):
        fences = privileges.drop_privileges(free_uid(allowed), None, files=[allowed])
    privileges.shut(fences)
    words = [*fences.files, *fences.lacking]
    for path in (allowed, "/etc/passwd", "/"):
        for attempt in (os.stat, os.lstat, open):
            with suppress(OSError):
                attempt(path)
                words.append(f"{attempt.__name__} {path}")
    os.write(out, "\n".join(words).encode())


def test_sizes_and_times_are_not_told_without_a_file_system_of_its_own(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("x")
    for path in (allowed, *tmp_path.parents, tmp_path):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    end, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            without_own_root(out, str(allowed))
            os._exit(0)
        except BaseException as error:
            os.write(out, repr(error).encode())
            os._exit(1)
    os.close(out)
    with os.fdopen(end) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert said == (
        "no file system of its own: the test says so; files are refused altogether; "
        f"{allowed} cannot be read"
    )


def test_all_of_numpy_that_it_uses_is_there(tmp_path: Path) -> None:
    source = QUIET.replace("from kmind", "import numpy as np\nfrom kmind", 1).replace(
        "    def status",
        "    def start(self):\n"
        "        parts = np.fft.fft(np.ones(4)), np.ma.array([1]), np.polynomial.Polynomial([1])\n"
        "        self.context.log(f'{len(parts)} parts {self.context.rng.random():.1f}')\n\n"
        "    def status",
    )
    with running(tmp_path, source) as run:
        run.until(lambda: run.said("3 parts 0.6"))


def test_without_a_user_of_its_own_the_fences_stand(tmp_path: Path) -> None:
    # As for one who is not root; here as root, so that only they can refuse.
    params = {"allowed": "/etc/hostname", "port": 1}
    with running(tmp_path, READER, params=params, uid=None) as run:
        run.until(lambda: run.said("all tried"))
        status = status_of(run.process.pid)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for name in ("read", "list", "write", "other", "connect", "unix", "listen"):
        assert run.said(f"{name}: refused"), name


def test_a_file_that_is_asked_for_and_absent(tmp_path: Path) -> None:
    with running(tmp_path, files=("/no/such/file",)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("sandbox.files: /no/such/file cannot be opened"))


def test_two_extensions_have_two_users(tmp_path: Path) -> None:
    from kmind.runtime.sandbox.uids import free_uid

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
