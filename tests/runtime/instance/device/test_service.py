# SPDX-License-Identifier: Apache-2.0
"""Drivers as modules: their devices come, serve, are recovered, are handed on and go."""

import contextlib
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import MIB, require_devices
from runtime.supervised import Daemon, Rig, alive

from kmind.driver import loop
from kmind.driver.loop import sweep
from kmind.errors import KmindError
from kmind.extension import find_module
from kmind.runtime.instance.device.lease import DeviceLease
from kmind.runtime.sandbox.cgroup.cgroup import list_cgroups

pytestmark = [pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf"), pytest.mark.fault]

NAME = "ram@system"
KILLS = 3
MANIFEST = """\
name = "odd"
version = "1"
class = "driver"
description = "Serves what a test needs."
author = "-"
licence = "Apache-2.0"

[extension]
entry = "extension:Odd"

[target]
kind = "system"

[driver]
kind = "block"
depth = 8
max_io_kib = 256
on_failure = "recover"
replay = "safe"

[limits]
memory_mib = 256
"""
ZEROS = """\
import os, time
import numpy as np
from kmind.driver import BlockDriver, Op

class Odd(BlockDriver):
    size = 8 << 20

    def serve(self, batch):
        self.odd(batch)
        for index in np.flatnonzero(batch.op == Op.READ):
            batch.data[index][:] = bytes(batch.length[index])
        batch.finish(batch.open)

    def odd(self, batch):
        if (batch.offset >= 4 << 20).any():
            {}
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A supervisor; whatever it serves ends with the test."""
    require_devices()
    made = Rig(tmp_path)
    try:
        yield made
    finally:
        made.close()
        assert not made.root.exists()
        assert not list((tmp_path / "run").rglob("*@*"))
        assert not [name for name in list_cgroups() if name.startswith(made.cgroups)]


def odd(rig: Rig, does: str, manifest: str = MANIFEST) -> str:
    """A module that does something odd with requests to the second half; what ``load`` takes."""
    folder = rig.folder / "odd"
    folder.mkdir()
    (folder / "module.toml").write_text(manifest)
    (folder / "extension.py").write_text(ZEROS.format(does))
    return str(folder)


def device(rig: Rig, name: str = NAME) -> Path:
    """The instance's device, by its own word."""
    assert rig.supervisor
    return Path(rig.supervisor.status(name)[0]["device"]["path"])


def process(rig: Rig, name: str = NAME) -> int:
    """The process that serves it."""
    assert rig.supervisor
    return int(rig.supervisor.status(name)[0]["extension"]["pid"])


def attached(path: Path) -> bool:
    return Path(f"/sys/block/{path.name}/loop").exists()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def put(path: Path, offset: int, data: bytes) -> None:
    with opened(path) as file, mmap.mmap(-1, len(data)) as page:
        page[:] = data
        assert os.pwritev(file, [page], offset) == len(data)


def get(path: Path, offset: int, length: int = 4096) -> bytes:
    with opened(path) as file, mmap.mmap(-1, length) as page:
        assert os.preadv(file, [page], offset) == length
        return bytes(page)


def reader(path: Path, block: int) -> "subprocess.Popen[bytes]":
    """A client that reads one block, and may have to wait for it."""
    command = ["dd", f"if={path}", "of=/dev/null", "bs=4k", "iflag=direct", "count=1"]
    return subprocess.Popen([*command, f"skip={block}"], stderr=subprocess.DEVNULL)


def test_a_device_comes_and_goes_with_its_instance(rig: Rig) -> None:
    supervisor = rig.start()
    assert rig.load("ram", "system", "size_mib=8") == NAME
    path = device(rig)
    assert int(Path(f"/sys/block/{path.name}/size").read_text()) == 8 * MIB // 512
    put(path, 4096, b"x" * 8192)
    assert get(path, 0, 16384) == bytes(4096) + b"x" * 8192 + bytes(4096)
    status = supervisor.status(NAME)[0]
    assert status["class"] == "driver"
    assert status["device"]["state"] == "serving"
    assert f"{path} is served by {NAME}" in [event["message"] for event in rig.of("log", NAME)]
    slack = Path(f"/proc/{process(rig)}/timerslack_ns").read_text()
    assert int(slack) < 1000  # sleeps of other extensions end up to 50 ms late
    assert Path(f"/proc/{process(rig)}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
    supervisor.requests.unload(NAME)
    assert not attached(path)


def test_the_driver_of_the_documentation_is_loaded_as_written(rig: Rig) -> None:
    page = (Path(__file__).parents[4] / "docs/drivers.md").read_text()
    folder = rig.folder / "zeros"
    folder.mkdir()
    for name, language in (("module.toml", "toml"), ("extension.py", "python")):
        folder.joinpath(name).write_text(page.split(f"```{language}\n", 1)[1].split("```", 1)[0])
    lines = sum(len(file.read_text().split("\n")) - 1 for file in folder.iterdir())
    assert lines <= 30
    rig.start()
    path = device(rig, rig.load(str(folder), "system"))
    put(path, 0, b"x" * 4096)
    assert get(path, 0) == bytes(4096)


def test_who_uses_a_device_is_named_and_loses_it_by_force_alone(rig: Rig) -> None:
    supervisor = rig.start()
    rig.load("ram", "system", "size_mib=8")
    path = device(rig)
    with opened(path) as file:
        with pytest.raises(KmindError, match=rf"in use by process {os.getpid()} "):
            supervisor.requests.unload(NAME)
        assert attached(path)
        put(path, 0, b"y" * 4096)  # it goes on
        rig.run_until(lambda: supervisor.status(NAME)[0]["device"]["state"] == "serving")
        began = time.monotonic()
        supervisor.requests.unload(NAME, force=True)
        assert time.monotonic() - began < 5
        with mmap.mmap(-1, 4096) as page, pytest.raises(OSError, match="error"):
            os.preadv(file, [page], 0)
    deadline = time.monotonic() + 10
    while attached(path):  # until the kernel has seen its last user go
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_name_is_served_once(rig: Rig) -> None:
    supervisor = rig.start()
    lease = DeviceLease(rig.folder / "run/devices", NAME)  # another owner has it
    try:
        with pytest.raises(KmindError, match="is served already, by another owner"):
            rig.load("ram", "system", "size_mib=8")
        assert not supervisor.members
    finally:
        lease.release()
    rig.load("ram", "system", "size_mib=8")
    with pytest.raises(KmindError, match="is loaded already"):
        rig.load("ram", "system", "size_mib=8")


def test_more_memory_than_granted_is_refused_before_anything_is_there(rig: Rig) -> None:
    supervisor = rig.start()
    most = find_module("ram").manifest.limits.memory_mib
    with pytest.raises(KmindError, match="is more than is granted") as refused:
        rig.load("ram", "system", f"size_mib={most}")
    assert "give at most size_mib=" in str(refused.value.hint)
    assert not supervisor.members
    assert not (rig.folder / "run/devices").exists()


@pytest.mark.needs("fio")
def test_killed_under_verified_writes_no_request_fails(rig: Rig) -> None:
    supervisor = rig.start()
    rig.load("ram", "system", "size_mib=32")
    path = device(rig)
    while (kills := len(rig.of("start")) - 1) < KILLS:
        kill_under_load(rig, path, KILLS - kills)
    status = supervisor.status(NAME)[0]
    assert status["device"]["restarts"] == KILLS
    assert device(rig) == path
    assert not rig.of("mode")


def kill_under_load(rig: Rig, path: Path, most: int) -> None:
    """Kill the driver up to so often while blocks are written, read back and compared."""
    load = subprocess.Popen(
        ["fio", "--name=t", f"--filename={path}", "--rw=randwrite", "--size=24m",
         "--bsrange=4k-64k", "--iodepth=32", "--ioengine=libaio", "--direct=1",
         "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    target = len(rig.of("start")) + most
    try:
        while len(rig.of("start")) < target and load.poll() is None:
            started = len(rig.of("start"))
            rig.run_until(lambda: busy(path) or load.poll() is not None)
            if load.poll() is None:
                os.kill(process(rig), signal.SIGKILL)
                rig.run_until(lambda now=started: len(rig.of("start")) > now)
                assert rig.of("start")[-1]["how"] == "recovered"
        rig.run_until(lambda: load.poll() is not None)
    finally:
        load.kill()
        _, errors = load.communicate()
    assert load.returncode == 0, errors
    assert not errors


def busy(path: Path) -> bool:
    """True while the device has requests in flight."""
    return int(Path(f"/sys/block/{path.name}/stat").read_text().split()[8]) > 0


def test_what_may_not_be_replayed_fails(rig: Rig) -> None:
    manifest = MANIFEST.replace('"recover"', '"fail"').replace('"safe"', '"unsafe"')
    supervisor = rig.start()
    name = rig.load(odd(rig, "return", manifest), "system")
    path = device(rig, name)
    assert get(path, 0) == bytes(4096)
    with pytest.raises(KmindError, match="may not be done twice"):
        supervisor.requests.reload(name)
    os.kill(process(rig, name), signal.SIGKILL)
    rig.run_until(lambda: supervisor.status(name)[0]["failed"])
    with pytest.raises(OSError, match="error"):
        get(path, 0)
    assert supervisor.status(name)[0]["device"]["state"] == "failed"
    supervisor.requests.reload(name)  # the way out: a new device
    assert get(device(rig, name), 0) == bytes(4096)


@pytest.mark.parametrize("does", ["os._exit(3)", "time.sleep(1000)"])
def test_a_request_that_always_kills_fails_in_the_end(rig: Rig, does: str) -> None:
    # It dies, or hangs without a heartbeat: the next process gets the same request again.
    supervisor = rig.start()
    name = rig.load(odd(rig, does), "system")
    path = device(rig, name)
    assert get(path, 0) == bytes(4096)
    client = reader(path, 1536)
    rig.run_until(lambda: client.poll() is not None)
    assert client.returncode == 1  # EIO, and no wait without end
    rig.run_until(lambda: supervisor.status(name)[0]["failed"])
    assert 1 <= supervisor.status(name)[0]["device"]["restarts"] <= 4


def test_an_exception_costs_its_batch_alone_and_is_told(rig: Rig) -> None:
    supervisor = rig.start()
    name = rig.load(odd(rig, 'raise RuntimeError("an author\'s mistake")'), "system")
    path = device(rig, name)
    with pytest.raises(OSError, match="error"):
        get(path, 5 * MIB)
    assert get(path, 0) == bytes(4096)
    rig.run_until(lambda: any("an author's mistake" in e["message"] for e in rig.of("log", name)))
    assert supervisor.status(name)[0]["device"]["restarts"] == 0


def test_the_next_daemon_goes_on_with_the_device_of_a_killed_one(rig: Rig) -> None:
    daemon = Daemon(rig.folder, "ram system size_mib=8")
    try:
        daemon.wait_for("serving")
        pid = int(daemon.wait_for("start")["extension"]["pid"])
    finally:
        daemon.kill()
    assert alive(pid)
    (path,) = [Path("/dev") / name for name in served_by(pid)]
    put(path, 0, b"z" * 4096)  # it serves on without an owner
    assert path.name not in sweep()
    with pytest.raises(KmindError, match="served already"):
        DeviceLease(rig.folder / "run/devices", NAME)
    supervisor = rig.start()
    assert rig.of("start")[0]["how"] == "taken over"
    assert process(rig) == pid
    assert device(rig) == path
    os.kill(pid, signal.SIGKILL)
    rig.run_until(lambda: len(rig.of("start")) > 1)
    assert get(path, 0) == b"z" * 4096  # of the memory, too, that the first owner made
    supervisor.close(keep=True)
    supervisor = rig.start()  # once more, with other numbers of descriptors
    assert get(path, 0) == b"z" * 4096
    supervisor.requests.unload(NAME)
    assert not attached(path)


def test_after_the_death_of_both_the_next_daemon_frees_the_device(rig: Rig) -> None:
    daemon = Daemon(rig.folder, "ram system size_mib=8")
    try:
        daemon.wait_for("serving")
        pid = int(daemon.wait_for("start")["extension"]["pid"])
        (path,) = [Path("/dev") / name for name in served_by(pid)]
    finally:
        daemon.kill()
    os.kill(pid, signal.SIGKILL)
    client = reader(path, 0)
    assert client.wait(20) == 1
    supervisor = rig.start()
    assert not supervisor.members
    assert not attached(path)
    assert any(path.name in event["message"] for event in rig.of("log"))
    rig.load("ram", "system", "size_mib=8")  # its name is free again
    assert get(device(rig), 0) == bytes(4096)


def served_by(pid: int) -> list[str]:
    """The loop devices on the connection that a process has."""
    numbers = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if str(link.readlink()) == "/dev/fuse":
            text = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
            numbers |= {line.split()[-1] for line in text.splitlines() if "fuse_conn" in line}
    return [name for name, number in connections().items() if number in numbers]


def connections() -> dict[str, str]:
    """Each loop device on a FUSE file of ours, with the number of its connection."""
    found = {}
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            with loop._Opened(Path("/dev") / entry.parts[3], os.O_RDONLY) as descriptor:
                info = loop._status(descriptor)
            if info is not None and info["name"].item().startswith(b"kmind:"):
                found[entry.parts[3]] = str(os.minor(int(info["device"])))
    return found


def test_a_killed_run_takes_its_driver_along_and_the_next_frees_the_device(
    tmp_path: Path,
) -> None:
    require_devices()
    first, path = run_ram(tmp_path)
    put(path, 0, b"q" * 4096)
    mark = f"kmind:{first.pid}:".encode()
    assert path.name in marked(mark)
    first.kill()
    first.communicate()
    deadline = time.monotonic() + 20
    with opened(path) as file, mmap.mmap(-1, 4096) as page:
        while True:  # until its driver has died with it
            try:
                os.preadv(file, [page], 0)
            except OSError:
                break
            assert time.monotonic() < deadline
    second, other = run_ram(tmp_path)
    try:
        assert not marked(mark)
        assert get(other, 0) == bytes(4096)
    finally:
        second.send_signal(signal.SIGINT)
        said, _ = second.communicate(timeout=20)
    assert second.returncode == 0, said
    assert not marked(f"kmind:{second.pid}:".encode())


def run_ram(folder: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A `kmind run ram` that serves, and its device, by its own word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kmind", "run", "ram", "size_mib=8", "--json"],
        env=os.environ | {"KMIND_STATE_DIR": str(folder), "KMIND_RUN_DIR": str(folder / "run")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"(/dev/loop\d+) is served by", line):
            return process, Path(found[1])
    process.wait()
    raise AssertionError("".join(said))


def marked(mark: bytes) -> list[str]:
    """The loop devices whose name in the kernel begins so."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with (
            contextlib.suppress(OSError),
            loop._Opened(Path("/dev") / entry.parts[3], os.O_RDONLY) as descriptor,
        ):
            info = loop._status(descriptor)
            if info is not None and info["name"].item().startswith(mark):
                found.append(entry.parts[3])
    return found
