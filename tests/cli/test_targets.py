# SPDX-License-Identifier: Apache-2.0
"""Ways to name a disk, and a disk that goes, as a user meets them."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serve.conftest import serve
from serve.memory import DISK

from kmind.cli.client import Client, kernel_name, path_to
from kmind.errors import KmindError, UsageError

if TYPE_CHECKING:
    from conftest import Cli

NODE = Path("/dev", DISK)
LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81  # linux/loop.h
SPARE = 250  # no other test uses a loop device of that number

needs_node = pytest.mark.skipif(not NODE.is_block_device(), reason=f"there is no {NODE} here")


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to a disk, as udev makes them."""
    path = tmp_path / "by-id-disk"
    path.symlink_to(NODE)
    return path


@needs_node
def test_knobs_of_a_disk_that_a_link_names(
    cli: "Cli", link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(link.parent)
    for words in (["block.read_ahead_kb", str(link)], ["block.*", "./by-id-disk"], [str(link)]):
        done = cli("knobs", "show", *words, "--json")
        assert done.returncode == 0, done.stderr
        assert f'"target":"{DISK}"' in done.stdout.replace(" ", "")


@needs_node
def test_an_instance_on_a_disk_that_a_link_names(cli: "Cli", link: Path, tmp_path: Path) -> None:
    cli.environment["KMIND_RUN_DIR"] = str(tmp_path)
    with serve(tmp_path):
        assert f"loaded readahead@{DISK}" in cli("load", "readahead", str(link)).stdout
        assert cli("mode", f"readahead@{link}", "observe").returncode == 0
        assert cli("unload", f"readahead@{link}").returncode == 0


@needs_node
def test_the_daemon_follows_no_path_of_its_clients(link: Path, tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        body = {"module": "readahead", "parameters": {}}
        for path in (str(link), "/dev/disk/by-id/x", "/dev/../dev/vda", "./vda"):
            with pytest.raises(KmindError, match="opens no path"):
                Client(served.path).call("POST", "/v1/instances", body | {"target": path})


def test_the_path_to_an_instance(link: Path) -> None:
    # A cgroup may have gone, and its instance be there still: that it exists is not asked.
    assert kernel_name("cgroup:/gone.slice/a.service/") == "cgroup:gone.slice!a.service"
    assert path_to("instance", "x@cgroup:/a/b") == "/v1/instances/x@cgroup:a!b"
    assert kernel_name("sda") == "sda"
    link.unlink()
    link.symlink_to("/nowhere")
    with pytest.raises(UsageError, match="leads to no device"):
        path_to("instance", f"readahead@{link}")
    with pytest.raises(UsageError, match="names have no slashes"):
        path_to("instance", "read/ahead")


@pytest.fixture
def removable() -> Iterator[str]:
    """A loop device that can be taken away while its knobs are held."""
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        fcntl.ioctl(control, LOOP_CTL_ADD, SPARE)
        yield f"loop{SPARE}"
        with suppress(OSError):  # the test has removed it
            fcntl.ioctl(control, LOOP_CTL_REMOVE, SPARE)
    finally:
        os.close(control)


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")
@pytest.mark.fault
def test_a_disk_that_goes_ends_the_run(cli: "Cli", removable: str) -> None:
    words = ("run", "static", removable, "knob=nomerges", "value=2", "--mode=auto", "--duration=60")
    process = subprocess.Popen(
        [sys.executable, "-m", "kmind", *words],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "set block.nomerges 0 -> 2" in line)
        assert line
        with Path("/dev/loop-control").open("rb") as control:
            fcntl.ioctl(control, LOOP_CTL_REMOVE, SPARE)
        out, err = process.communicate(timeout=30)  # long before the duration's end
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert f"{removable} has gone" in err
    assert "restore" not in out + err
    assert f"gone with {removable}" in out
    assert "nothing to restore" in cli("restore").stdout
