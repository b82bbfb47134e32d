# SPDX-License-Identifier: Apache-2.0
"""An extension's own traffic moves no counter of any agent; a neighbour's does."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sample_module import loop_disk

from kmind.agent.kernel.agent import BpfAgent
from kmind.extension import find_module, parse_parameters
from kmind.knobs import Target
from kmind.runtime.instance.agent_factory import make_bpf_agent

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

COLUMNS = find_module("readahead").manifest.columns
OUTCOMES = ("reads", "read_pages", "faults", "fault_around", "added_pages")
PAGES = 1024

# Touches a file's pages and reads it, again and again: as an extension, or as anybody else. It
# has the file open when it becomes that, as an extension has libc.
WORK = """
import mmap, os, sys, threading
from kmind.runtime.sandbox.confine.privileges import drop_privileges
from kmind.runtime.sandbox.uids import free_uid

kind, path, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_RDONLY)
view = mmap.mmap(fd, pages * 4096, mmap.MAP_SHARED, mmap.PROT_READ)

def work():
    for _ in range(3):
        view.madvise(mmap.MADV_DONTNEED)
        for at in range(0, len(view), 4096):
            view[at]
        for at in range(0, len(view), 65536):
            os.pread(fd, 65536, at)

threads = [threading.Thread(target=lambda: (go.wait(), work()), daemon=True) for _ in range(2)]
go = threading.Event()
for thread in threads:
    thread.start()
if kind == "extension":
    # The C library changes the ids of all threads.
    drop_privileges(free_uid("test"), None, files=(path,))
elif kind == "neighbour":
    os.setresuid(61184, 61184, 61184)  # as systemd's DynamicUser= has
go.set()
work()
for thread in threads:
    thread.join()
print("worked")
"""


@contextmanager
def mounted(disk: str, folder: Path) -> Iterator[Path]:
    """A file of PAGES pages on a file system of the disk's own."""
    subprocess.run(["mkfs.ext4", "-q", "-F", f"/dev/{disk}"], check=True)
    place = folder / "mounted"
    place.mkdir()
    subprocess.run(["mount", f"/dev/{disk}", str(place)], check=True)
    try:
        place.chmod(0o755)
        file = place / "file"
        file.write_bytes(os.urandom(PAGES * 4096))
        file.chmod(0o644)
        os.sync()
        yield file
    finally:
        subprocess.run(["umount", str(place)], check=True)


def forget(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def counted(agent: BpfAgent, file: Path, kind: str) -> dict[str, int]:
    """By how much the outcomes' counters moved while it worked."""
    forget(file)
    before = {name: agent.feature(COLUMNS[name]) for name in OUTCOMES}
    said = subprocess.run(
        [sys.executable, "-c", WORK, kind, str(file), str(PAGES)],
        check=True, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert said.stdout == "worked\n", said.stderr
    return {name: agent.feature(COLUMNS[name]) - before[name] for name in OUTCOMES}


def test_an_extensions_touches_and_reads_count_for_nobody(tmp_path: Path) -> None:
    module = find_module("readahead")
    params = parse_parameters(module.manifest, [])
    # An extension gets at no file in a folder of root's alone, as pytest's are.
    with (
        tempfile.TemporaryDirectory() as folder,
        loop_disk(tmp_path) as disk,
        mounted(disk, Path(folder)) as file,
    ):
        Path(folder).chmod(0o755)
        agent = make_bpf_agent(module, Target.block(disk), params, deadline_s=3600)
        try:
            agent.start()
            agent.hooks.watch("on_read", True)
            before = counted(agent, file, "neighbour")
            assert all(before.values()), before
            assert before["read_pages"] >= 3 * PAGES
            assert counted(agent, file, "extension") == dict.fromkeys(OUTCOMES, 0)
            after = counted(agent, file, "root")
            assert all(after.values()), after
        finally:
            agent.close()
