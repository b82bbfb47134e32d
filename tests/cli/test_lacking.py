# SPDX-License-Identifier: Apache-2.0
"""Features that a machine may lack, hidden from one process in a mount namespace of its own."""

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agents import REFUSED, compile_bpf
from sample_module import MANIFEST, loop_disk, make_module
from vm.lacking_script import without_typed_tracepoints

from kmind.abi.btf import KERNEL_BTF
from kmind.util.packages import install_hint

pytestmark = pytest.mark.kernel("btf", "libbpf", "tp_btf")


def _kmind(hide: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run kmind after a shell line that hides something."""
    command = [sys.executable, "-m", "kmind", *words]
    script = f'mount --make-rprivate / && {hide} && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


def _one_line(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("kmind: ")
    for word in said:
        assert word in lines[0]


def _disk() -> str:
    return min(path.name for path in Path("/sys/block").iterdir())


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMIND_STATE_DIR", str(tmp_path))


RUN = ("run", "readahead")
NO_BTF = "mount -t tmpfs none /sys/kernel/btf"


@pytest.mark.usefixtures("state")
def test_no_btf() -> None:
    _one_line(_kmind(NO_BTF, *RUN, _disk()), 4, "BTF")


@pytest.mark.usefixtures("state")
def test_without_btf_doctor_says_so_of_the_core_and_each_module() -> None:
    done = _kmind(NO_BTF, "doctor", "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    cause = next(each["cause"] for each in found["probes"] if each["name"] == "btf")
    assert cause.startswith("this kernel shows no BTF: ")
    for each in (found["core"], *found["modules"]):
        assert (each["state"], each["cause"]) == ("missing", cause)


@pytest.mark.usefixtures("state")
def test_without_typed_tracepoints_each_module_says_which_it_needs(tmp_path: Path) -> None:
    without_typed_tracepoints(str(tmp_path / "types"))
    done = _kmind(f"mount --bind {tmp_path}/types {KERNEL_BTF}", "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["core"]["state"] == "ok"
    modules = {each["name"]: each for each in found["modules"]}
    said = "this kernel has no tracepoint block_rq_issue, which hook on_issue needs"
    assert (modules["blockio"]["state"], modules["blockio"]["cause"]) == ("missing", said)
    assert modules["static"]["state"] == "partly"


def test_doctor_without_btf() -> None:
    done = _kmind(NO_BTF, "doctor", "--json")
    assert done.returncode == 4
    probes = {probe["name"]: probe for probe in json.loads(done.stdout)["probes"]}
    assert probes["btf"]["state"] != "ok"


def _hide_libbpf() -> str:
    name = ctypes.util.find_library("bpf")
    assert name is not None
    ctypes.CDLL(name)
    maps = Path("/proc/self/maps").read_text().splitlines()
    path = next(line.split()[-1] for line in maps if "libbpf" in line)
    return f"mount --bind /dev/null {path}"


@pytest.mark.usefixtures("state")
def test_no_libbpf() -> None:
    _one_line(_kmind(_hide_libbpf(), *RUN, _disk()), 4, "libbpf", install_hint("libbpf"))


@pytest.mark.usefixtures("state")
def test_no_bpffs_costs_a_run_nothing() -> None:
    hide = "mount -t tmpfs none /sys/fs/bpf"
    done = _kmind(hide, *RUN, _disk(), "--mode", "observe", "--duration", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["restored"] is True


def test_doctor_without_bpffs() -> None:
    done = _kmind("umount --all-targets /sys/fs/bpf", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    probes = {probe["name"]: probe for probe in json.loads(done.stdout)["probes"]}
    assert probes["bpffs"]["state"] == "missing"
    assert probes["bpffs"]["costs"]


READ_ONLY = "mount --rbind /sys /sys && mount -o remount,bind,ro /sys"
# A window of an idle disk, by which static goes, comes every two seconds.
SETS = ("run", "static", "value=64", "--duration", "8")


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("mode", ["auto", "canary"])
def test_a_run_that_could_set_nothing_is_refused(mode: str, tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        done = _kmind(READ_ONLY, *SETS[:2], disk, *SETS[2:], "--mode", mode)
    _one_line(done, 1, "Read-only file system", "mount /sys and /proc/sys for writing")


@pytest.mark.usefixtures("state")
def test_advice_needs_no_sysfs_to_write_to(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        done = _kmind(READ_ONLY, *SETS[:2], disk, *SETS[2:], "--mode", "advise")
    assert done.returncode == 0, done.stderr
    assert "To do so: echo 64 > " in done.stdout


@pytest.mark.usefixtures("state")
def test_a_run_whose_value_the_kernel_refuses_fails(tmp_path: Path) -> None:
    # A loop device has 128 tags at most, and no scheduler that would add to them.
    with loop_disk(tmp_path) as disk:
        Path(f"/sys/block/{disk}/queue/scheduler").write_text("none")
        words = ("run", "static", disk, "knob=nr_requests", "value=2048", "--mode", "auto")
        done = _kmind("true", *words, "--duration", "8")
    _one_line(done, 1, "nothing could be set: cannot set block.nr_requests")


# The daemon, which takes what only looks, and refuses what would set something.
DAEMON = """
{kmind} daemon --no-devices & daemon=$!
until {kmind} list >/dev/null 2>&1; do kill -0 $daemon || exit 9; sleep 0.2; done
{kmind} load static {disk} value=64 --mode auto; echo "load $?"
{kmind} load static {disk} value=64 --mode advise >/dev/null; echo "advise $?"
{kmind} mode static@{disk} canary; echo "mode $?"
kill $daemon; wait $daemon
"""


def test_a_daemon_refuses_what_could_set_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMIND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KMIND_RUN_DIR", str(tmp_path / "run"))
    with loop_disk(tmp_path) as disk:
        script = DAEMON.format(kmind=f"{sys.executable} -m kmind", disk=disk)
        argv = ["unshare", "--mount", "sh", "-c", f"mount --make-rprivate /;{READ_ONLY};{script}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[:3] == ["load 1", "advise 0", "mode 1"], done.stderr
    assert done.stderr.count("Read-only file system; mounted read-only, as in a container") == 2


HOOK = """
[[hook]]
program = "on_complete"
tracepoint = "block_rq_complete"
costs = "everything"
"""


@pytest.mark.usefixtures("state")
def test_a_kernel_that_refuses_the_agent(tmp_path: Path) -> None:
    source = tmp_path / "refused.bpf.c"
    source.write_text(REFUSED)
    module = make_module(tmp_path, manifest=MANIFEST + HOOK)
    compile_bpf(source, module / "readahead.bpf.o")
    _one_line(_kmind("true", "run", f"{module}/", _disk()), 4, "verifier", "9999")
