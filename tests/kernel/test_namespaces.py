# SPDX-License-Identifier: Apache-2.0
"""kmind in a container: other numbers for processes, other clocks."""

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sample_module import loop_disk

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "iter_map_elem")

KMIND = f"{sys.executable} -m kmind"

# The core of a container's owner, and a process of its own that burns some CPU time.
OWNER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from kmind.agent.core.core import Core

assert os.getpid() < 100, "not a PID namespace"
child = subprocess.Popen([sys.executable, "-c", "x = bytearray(40 << 20)\\nwhile True: pass"])
time.sleep(0.5)
os.kill(child.pid, signal.SIGSTOP)
with Core.private() as core:
    core.register("one", "module", "tuner", pid=child.pid, uid=0)
    core.register("gone", "module", "tuner", pid=99, uid=0)
    print(child.pid, flush=True)
    print(core.stats(), flush=True)
child.kill()
child.wait()
"""


def inside(*command: str, how: str) -> subprocess.CompletedProcess[str]:
    """Run a command in namespaces of its own."""
    argv = ["unshare", *how.split(), *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_accounts_are_the_extensions_own_in_a_pid_namespace() -> None:
    done = inside(sys.executable, "-c", OWNER, how="--pid --fork --mount-proc")
    assert done.returncode == 0, done.stderr
    pid, head, *lines = done.stdout.splitlines()
    made = [dict(zip(head.split(), line.split(), strict=True)) for line in lines if line]
    rows = {row["name"]: row for row in made}
    assert rows["one"]["pid"] == pid
    assert int(rows["one"]["cpu_ms"]) > 100
    assert int(rows["one"]["rss_kib"]) > 40 << 10
    assert {rows["gone"][name] for name in ("pid", "cpu_ms", "rss_kib")} == {"-"}


# What the actuator does when a knob was set, in the container; the file is held open there.
REFRESH = """
import os, sys, time
from kmind.guard.openfiles import open_files, refresh_open_files
from kmind.knobs import Target, get_knob

path, disk = sys.argv[1:]
ready, done = os.pipe()
pid = os.fork()
if pid == 0:
    fd = os.open(path, os.O_RDONLY)
    os.write(done, b".")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
target = Target.block(disk)
get_knob("block.read_ahead_kb").write(target, 64)
refreshed = refresh_open_files(target, 128, 64)
(found,) = [each for each in open_files()[0] if each.pid == pid and each.disk == target.id]
os.kill(pid, 9)
os.waitpid(pid, 0)
print(refreshed.files, refreshed.unreachable, found.ra_pages, found.tgid == pid)
"""


@pytest.mark.fault
def test_open_files_are_looked_for_under_the_right_numbers(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        subprocess.run(["mkfs.ext4", "-q", "-F", f"/dev/{disk}"], check=True)
        Path(f"/sys/block/{disk}/queue/read_ahead_kb").write_text("128")
        place = tmp_path / "mnt"
        place.mkdir()
        subprocess.run(["mount", f"/dev/{disk}", str(place)], check=True)
        try:
            file = place / "file"
            file.write_bytes(b"x" * 65536)
            done = inside(
                sys.executable, "-c", REFRESH, str(file), disk, how="--pid --fork --mount-proc"
            )
        finally:
            subprocess.run(["umount", str(place)], check=True)
    assert done.returncode == 0, done.stderr
    pages = 64 * 1024 // os.sysconf("SC_PAGE_SIZE")
    assert done.stdout.split() == ["1", "0", str(pages), "True"]


def probes(how: str) -> dict[str, dict[str, object]]:
    done = inside(*shlex.split(KMIND), "doctor", "--json", how=how)
    return {each["name"]: each for each in json.loads(done.stdout)["probes"]}


def test_doctor_names_the_namespaces() -> None:
    found = probes("--pid --fork --mount-proc")
    assert (found["pid_namespace"]["state"], found["time_namespace"]["state"]) == ("missing", "ok")
    assert "not the host's" in str(found["pid_namespace"]["cause"])
    found = probes("--pid --fork")
    assert "another PID namespace" in str(found["pid_namespace"]["cause"])
    found = probes("--time --fork --monotonic=864000")
    assert (found["pid_namespace"]["state"], found["time_namespace"]["state"]) == ("ok", "missing")
    assert "864000 s" in str(found["time_namespace"]["cause"])
    found = probes("--user --map-root-user --fork")
    assert found["capabilities"]["state"] == "refused"
    assert "user namespace" in str(found["capabilities"]["cause"])


@pytest.mark.parametrize("how", ["--monotonic=864000", "--monotonic=-10", "--boottime=5"])
@pytest.mark.parametrize(
    "command", ["run static {} value=128 --mode auto --duration 2", "daemon --no-devices"]
)
def test_a_clock_that_is_set_off_is_refused_in_one_line(
    how: str, command: str, tmp_path: Path
) -> None:
    with loop_disk(tmp_path) as disk:
        done = inside(*shlex.split(f"{KMIND} {command.format(disk)}"), how=f"--time --fork {how}")
    assert done.returncode == 4, done.stderr
    (error,) = done.stderr.strip().splitlines()
    assert "time namespace" in error
    assert "nsenter --time" in error


# The case root-without-perfmon, and its neighbours: what a container's root lacks.
LACKING = [
    ("perfmon,-sys_admin", "CAP_PERFMON"),
    ("bpf,-sys_admin", "CAP_BPF"),
    ("bpf,-perfmon,-sys_admin", "CAP_BPF, CAP_PERFMON"),
    ("kill", "CAP_KILL"),
    ("setuid,-setgid,-setpcap", "CAP_SETGID, CAP_SETUID, CAP_SETPCAP"),
]
COMMANDS = [
    "run static {} value=128 --duration 2",
    "daemon --no-devices",
    "record readahead@{} -o {}-recorded --duration 1",
    "evaluate readahead {} block.read_ahead_kb=16 --duration 2",
    "knobs set vm.swappiness=60",
    "bench admission --quick",
    "bench readahead --quick",
    "bench queue --quick",
]


def without(capabilities: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run kmind as a root that lacks capabilities, as in a container."""
    lacking = [f"--bounding-set=-{capabilities}", f"--inh-caps=-{capabilities}"]
    argv = ["setpriv", *lacking, *shlex.split(f"{KMIND} {command}")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    """Check that a command ended with one clear line."""
    assert done.returncode == code, done.stderr
    (error,) = done.stderr.strip().splitlines()
    assert said in error


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMIND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KMIND_RUN_DIR", str(tmp_path / "run"))


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("command", COMMANDS)
def test_root_without_perfmon_is_told_so(command: str, tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        done = without("perfmon,-sys_admin", command.format(disk, tmp_path / "trace"))
    refused(done, 77, "root lacks CAP_PERFMON, as in a container")


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(("capabilities", "named"), LACKING)
def test_whichever_capability_is_lacking_is_named(
    capabilities: str, named: str, tmp_path: Path
) -> None:
    with loop_disk(tmp_path) as disk:
        done = without(capabilities, f"run static {disk} value=128 --duration 2")
    refused(done, 77, f"root lacks {named}, as in a container")
    done = without(capabilities, "doctor")
    assert done.returncode == 77
    assert f"root lacks {named}, as in a container" in done.stdout


@pytest.mark.usefixtures("state")
def test_sys_admin_stands_for_perfmon_and_bpf(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        done = without("perfmon,-bpf", f"run static {disk} value=64 --duration 2")
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("state")
def test_recording_starts_no_extension(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        output = tmp_path / "trace"
        done = without("kill,-setuid", f"record readahead@{disk} -o {output} --duration 1")
    assert done.returncode == 0, done.stderr


# Makes bpf(2) fail with an error, as the filters of containers and units do; then a command.
FILTER = """
import ctypes, os, platform, struct, sys

number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | int(sys.argv[1]))]
rows += [(6, 0, 0, 0x7FFF0000)]  # SECCOMP_RET_ALLOW
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
program = struct.pack("HxxxxxxQ", len(rows), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(("error", "code"), [(errno.EPERM, 77), (errno.ENOSYS, 4)])
def test_a_filter_on_system_calls_is_suspected(error: int, code: int, tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        words = f"{KMIND} run static {disk} value=128 --duration 2"
        argv = [sys.executable, "-c", FILTER, str(error), *shlex.split(words)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    refused(done, code, "a filter on system calls is in force")


def test_a_time_namespace_without_an_offset_is_none() -> None:
    found = probes("--time --fork --monotonic=0")
    assert found["time_namespace"]["state"] == "ok"
