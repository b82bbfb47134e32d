# SPDX-License-Identifier: Apache-2.0
"""``kmind evaluate`` on the real kernel: what it says, and that everything is put back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sample_module import knob_file, loop_disk

if TYPE_CHECKING:
    from conftest import Cli

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

# Reads a file again and again, so that something is served: from memory.
READER = """\
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
while True:
    for page in range(64):
        os.pread(fd, 4096, 4096 * page)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A disk with a file system, and a process that reads a file there."""
    with loop_disk(tmp_path) as name:
        subprocess.run(["mkfs.ext4", "-q", f"/dev/{name}"], check=True)
        place = tmp_path / "mnt"
        place.mkdir()
        subprocess.run(["mount", f"/dev/{name}", place], check=True)
        try:
            (place / "file").write_bytes(bytes(1 << 20))
            with subprocess.Popen(
                [sys.executable, "-c", READER, str(place / "file")], stdout=subprocess.PIPE
            ) as reader:
                assert reader.stdout
                reader.stdout.readline()
                yield name
                reader.kill()
        finally:
            subprocess.run(["umount", place], check=True)


def test_one_value_against_another(cli: "Cli", disk: str) -> None:
    before = knob_file(disk).read_text()
    done = cli(
        "evaluate", "readahead", disk, "block.read_ahead_kb=64", "--against", "512",
        "--duration", "6", "--json",
    )  # fmt: skip
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["schema"] for line in lines] == ["kmind.evaluate/1"] * 2
    assert [line["event"] for line in lines] == ["experiment", "result"]
    assert (lines[0]["incumbent"], lines[0]["candidate"]) == (512, 64)
    assert lines[1]["outcome"] in ("gain", "loss", "no change", "aborted")
    assert done.returncode == (lines[1]["outcome"] == "aborted")
    assert lines[1]["now"] == int(before)
    assert knob_file(disk).read_text() == before
    shown = cli("why", str(lines[1]["experiment"]))
    assert "by hand: block.read_ahead_kb 512 -> 64" in shown.stdout


def test_what_the_kernel_does_not_take(cli: "Cli", disk: str) -> None:
    before = knob_file(disk).read_text()
    done = cli("evaluate", "readahead", disk, "block.read_ahead_kb=99999999999")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "read_ahead_kb" in done.stderr
    assert knob_file(disk).read_text() == before
