# SPDX-License-Identifier: Apache-2.0
"""kmind in a container: other numbers for processes, other clocks."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sample_module import loop_disk

pytestmark = pytest.mark.kernel("libbpf", "btf", "arena", "bpf_timer", "tp_btf", "iter_map_elem")

KMIND = f"{sys.executable} -m kmind"

# The core of a container's owner, and a process of its own that burns some CPU time.
OWNER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from kmind.agent.core import Core

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


def test_a_time_namespace_without_an_offset_is_none() -> None:
    found = probes("--time --fork --monotonic=0")
    assert found["time_namespace"]["state"] == "ok"
