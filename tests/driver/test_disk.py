# SPDX-License-Identifier: Apache-2.0
"""A block device served from user space, on the real kernel."""

import contextlib
import errno
import json
import mmap
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from disks import MIB, fio, require_devices, served, watched
from rams import opened_ram

from kmind.driver import disk as disk_module
from kmind.driver.block import Batch, BlockDriver
from kmind.driver.disk import LoopDisk, Server, ThreadServer
from kmind.driver.fuse.connection import Connection
from kmind.driver.loop import LoopDevice
from kmind.errors import KmindError
from kmind.modules.ram.extension import Ram

pytestmark = pytest.mark.kernel()


def read(path: Path, offset: int, length: int = 4096) -> bytes:
    """Read past the page cache."""
    place = mmap.mmap(-1, length)
    with opened(path) as file:
        got = os.preadv(file, [place], offset)
    return place[:got]


def write(path: Path, offset: int, data: bytes) -> None:
    """Write past the page cache."""
    place = mmap.mmap(-1, len(data))
    place[:] = data
    with opened(path) as file:
        assert os.pwritev(file, [place], offset) == len(data)


@contextlib.contextmanager
def opened(path: Path):  # type: ignore[no-untyped-def]
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        yield file
    finally:
        os.close(file)


@pytest.mark.needs("fio")
@pytest.mark.parametrize("kind", ["Ram", "Late"])
@pytest.mark.parametrize(("size", "depth"), [("4k", 1), ("4k", 32), ("64k", 8), ("1m", 64)])
def test_what_is_written_is_read(kind: str, size: str, depth: int) -> None:
    amount = 2 * MIB if depth == 1 else 16 * MIB
    with served(kind, 32 * MIB) as disk:
        done = fio(
            disk.path, "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--ioengine=libaio",
            f"--bs={size}", f"--iodepth={depth}", f"--size={amount}",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["jobs"][0]
    assert job["error"] == 0
    assert job["read"]["io_bytes"] == job["write"]["io_bytes"] == amount


@pytest.mark.needs("fio")
def test_the_bare_file_is_served_too() -> None:
    with served("Ram", 32 * MIB) as disk:
        done = fio(
            disk.file, "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--ioengine=libaio",
            "--bs=4k", "--iodepth=32", "--size=16m",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with pytest.raises(PermissionError):
            os.truncate(disk.file, 5)
        assert disk.file.stat().st_size == 32 * MIB


@pytest.mark.needs("mkfs.ext4", "e2fsck", "mount", "umount")
@pytest.mark.parametrize("kind", ["Ram", "Late"])
def test_a_file_system_lives_on_it(kind: str, tmp_path: Path) -> None:
    where = tmp_path / "mounted"
    where.mkdir()
    with served(kind) as disk:
        subprocess.run(["mkfs.ext4", "-q", "-F", disk.path], check=True, timeout=60)
        subprocess.run(["mount", "-o", "discard", disk.path, where], check=True, timeout=60)
        try:
            for number in range(200):
                (where / f"file{number}").write_bytes(bytes([number]) * 20_000)
            for number in range(0, 200, 2):
                (where / f"file{number}").unlink()
            with pytest.raises(KmindError, match=f"in use by the mount at {where}"):
                disk.close()
        finally:
            subprocess.run(["umount", where], check=True, timeout=60)
        subprocess.run(["e2fsck", "-f", "-n", disk.path], check=True, timeout=60)
        subprocess.run(["mount", "-o", "ro", disk.path, where], check=True, timeout=60)
        try:
            found = {path.name: path.read_bytes() for path in where.glob("file*")}
        finally:
            subprocess.run(["umount", where], check=True, timeout=60)
    assert found == {f"file{n}": bytes([n]) * 20_000 for n in range(1, 200, 2)}


@pytest.mark.needs("blkdiscard")
@pytest.mark.parametrize("how", [[], ["--zeroout"]])
def test_discarded_and_zeroed_ranges_read_as_zeros(how: list[str]) -> None:
    with served("Ram") as disk:
        write(disk.path, 0, b"x" * MIB)
        command = ["blkdiscard", "-f", *how, "-o", "4096", "-l", "8192", str(disk.path)]
        subprocess.run(command, check=True, timeout=60)
        assert read(disk.path, 0, 16384) == b"x" * 4096 + bytes(8192) + b"x" * 4096


@pytest.mark.needs("blkdiscard")
def test_without_operations_discards_do_nothing_and_zeros_are_written() -> None:
    class Plain(Ram):
        operations = frozenset()

    require_devices()
    with watched(LoopDisk("plain", lambda c: ThreadServer(opened_ram(8 * MIB, Plain), c))) as disk:
        write(disk.path, 0, b"x" * 8192)
        command = ["blkdiscard", "-f", "-l", "4096", str(disk.path)]
        subprocess.run(command, check=True, timeout=60)  # the block layer hides the refusal
        assert read(disk.path, 0, 8192) == b"x" * 8192
        subprocess.run([*command, "--zeroout"], check=True, timeout=60)
        assert read(disk.path, 0, 8192) == bytes(4096) + b"x" * 4096


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["Raising", "Short", "Long", "Another"])
def test_a_wrong_answer_is_an_error_for_its_caller_alone(kind: str) -> None:
    with served(kind) as disk:
        write(disk.path, 0, b"x" * 4096)
        with pytest.raises(OSError, match="error") as caught:
            read(disk.path, MIB)
        assert caught.value.errno == errno.EIO
        assert read(disk.path, 0) == b"x" * 4096
        assert read(disk.path, 2 * MIB) == bytes(4096)


@pytest.mark.fault
def test_of_two_answers_the_first_is_given() -> None:
    with served("Twice") as disk:
        assert read(disk.path, MIB) == b"1" * 4096
        assert read(disk.path, 0) == bytes(4096)


@pytest.mark.fault
def test_a_driver_chooses_the_error() -> None:
    with served("Failing") as disk, pytest.raises(OSError, match="space") as caught:
        write(disk.path, MIB, b"x" * 4096)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["Silent", "Hanging"])
def test_an_abort_ends_every_client(kind: str) -> None:
    with served(kind) as disk:
        path = disk.path
        command = ["dd", f"if={path}", "of=/dev/null", "bs=4k", "iflag=direct", "count=1"]
        clients = [
            subprocess.Popen([*command, f"skip={256 + n}"], stderr=subprocess.DEVNULL)
            for n in range(4)
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            clients[0].wait(0.3)
        assert [client.poll() for client in clients] == [None] * 4
        disk.close(force=True)
        assert [client.wait(20) for client in clients] == [1] * 4
    assert not attached(path)


@pytest.mark.fault
def test_it_is_not_taken_from_those_who_use_it() -> None:
    with served() as disk:
        path = disk.path
        with opened(path):
            with pytest.raises(KmindError, match=rf"in use by process {os.getpid()} "):
                disk.close()
            write(path, 0, b"x" * 4096)
            assert read(path, 0) == b"x" * 4096
        # The last close has not freed it either.
        assert read(path, 0) == b"x" * 4096
    assert not attached(path)


@pytest.mark.fault
@pytest.mark.parametrize("step", ["start", "open", "attach"])
def test_a_step_that_fails_leaves_nothing(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_devices()
    before = attached_all()

    def start(connection: Connection) -> Server:
        if step == "start":
            raise RuntimeError("no server")
        if step == "open":
            return Nobody()
        return ThreadServer(opened_ram(8 * MIB), connection)

    if step == "attach":
        monkeypatch.setattr(LoopDevice, "attach", lambda *_, **__: 1 / 0)
    disk = LoopDisk("test", start, timeout=0.5)
    with pytest.raises((RuntimeError, KmindError, ZeroDivisionError)), disk:
        pass
    assert attached_all() == before
    with pytest.raises(AssertionError, match="not open"):
        _ = disk.connection


@pytest.mark.fault
def test_a_thread_that_hangs_is_told_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_STOP_SECONDS", 0.1)
    let_go = threading.Event()

    class Stuck(Ram):
        def serve(self, batch: Batch) -> None:
            if batch.offset[0] >= MIB:
                let_go.wait()
            super().serve(batch)

    require_devices()
    disk = LoopDisk("stuck", lambda c: ThreadServer(opened_ram(8 * MIB, Stuck), c), timeout=0.5)
    with disk:
        path = disk.path
        client = subprocess.Popen(
            ["dd", f"if={path}", "of=/dev/null", "bs=4k", "iflag=direct", "count=1", "skip=256"],
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(0.3)
        with pytest.raises(KmindError, match="does not come back"):
            disk.close(force=True)
    assert client.wait(20) == 1
    assert not attached(path)
    let_go.set()


class Nobody:
    """A server that serves nothing."""

    def stop(self) -> None:
        """Nothing runs."""


def attached(path: Path) -> bool:
    return Path(f"/sys/block/{path.name}/loop").exists()


def attached_all() -> set[str]:
    return {entry.parts[3] for entry in Path("/sys/block").glob("loop*/loop/backing_file")
            if entry.read_text().startswith("/disk")}  # fmt: skip


def test_drivers_have_to_serve() -> None:
    with pytest.raises(NotImplementedError):
        BlockDriver().serve(None)  # type: ignore[arg-type]


def test_the_example_of_the_documentation_runs() -> None:
    require_devices()
    page = (Path(__file__).resolve().parents[2] / "docs/drivers.md").read_text()
    class_ = page.split("```python\n", 1)[1].split("```", 1)[0]
    rest = page[page.index("    from kmind.driver.disk import") :].split("\n\n## ", 1)[0]
    source = class_ + textwrap.dedent(rest)
    source += (
        "\n    with open(disk.path, 'rb', buffering=0) as file:\n        print(file.read(16))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == str(bytes(16))
