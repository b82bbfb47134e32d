# SPDX-License-Identifier: Apache-2.0
"""Kernels that lack something, or refuse it: kmind says which, and what is left goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from agents import REFUSED, compile_bpf
from vm.guest import KERNELS, Disk, Done, Guest

import kmind
from kmind.bpf import probe

pytestmark = [pytest.mark.guest(*KERNELS), pytest.mark.slow]

KMIND = ("python3", "-m", "kmind")
DOCTOR = (*KMIND, "doctor", "--json")
NOBODY = ("setpriv", "--reuid", "65534", "--clear-groups")
NO_BPF = ("setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin")
STATIC = Path(kmind.__file__).parent / "modules" / "static"
REPORTS = Path(__file__).resolve().parents[2] / "docs" / "kernels"
SECONDS = 500
PRIVILEGE, NOT_SUPPORTED, LOAD = 77, 4, 4


@pytest.fixture(scope="module", params=KERNELS)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    # The security modules of tools/kernels_table.py.
    lsm = "landlock,lockdown,yama,bpf"
    with Guest(request.param, lsm=lsm, disks=[Disk("virtio", 64)], seconds=1500) as guest:
        yield guest


@pytest.fixture(scope="module")
def report(guest: Guest) -> dict[str, Any]:
    """Doctor's report where nothing is hidden."""
    found: dict[str, Any] = json.loads(guest.run(*DOCTOR, seconds=SECONDS).stdout)
    return found


def hidden(shell: str, *command: str) -> tuple[str, ...]:
    """A command in a mount namespace of its own, after a shell line that hides something."""
    return ("unshare", "--mount", "sh", "-c", f'{shell} && exec "$@"', "sh", *command)


def states(report: dict[str, Any]) -> dict[str, str]:
    """Return name to state, of probes and modules."""
    return {each["name"]: each["state"] for each in (*report["probes"], *report["modules"])}


def causes(report: dict[str, Any]) -> dict[str, str]:
    """Return name to cause."""
    return {each["name"]: each["cause"] for each in (*report["probes"], *report["modules"])}


def one_line(done: Done, code: int, *said: str) -> None:
    """Check that a command failed with that code, in one line that says so."""
    assert done.code == code, done.stderr
    assert done.stderr.startswith("kmind: ")
    assert done.stderr.count("\n") == 1
    for word in said:
        assert word in done.stderr


def test_all_requirements_are_met(guest: Guest, report: dict[str, Any]) -> None:
    assert report["kernel"] == guest.kernel.release
    assert report["ok"], causes(report)
    assert report["core"] == {"state": "ok", "cause": ""}
    assert [each["name"] for each in report["probes"]] == list(probe.names())
    found = states(report)
    assert report["shared_memory"] == ("arena" if found["arena_atomics"] == "ok" else "array")
    for name in ("array_mmap", "ringbuf", "syscall", "bpf_timer", "tp_btf", "tp_block"):
        assert found[name] == "ok"
    for name in ("autotune", "blockio", "dirty", "slowio", "static"):
        assert found[name] == "ok", causes(report)[name]


def test_the_kept_report_is_what_doctor_says(guest: Guest, report: dict[str, Any]) -> None:
    kept = json.loads((REPORTS / f"{guest.kernel.name}.json").read_text())
    assert states(kept) == states(report), "run tools/kernels_table.py --boot"


def test_unprivileged_bpf_switched_off_in_each_way(guest: Guest, report: dict[str, Any]) -> None:
    """Root goes on; 1 stays until the next boot, so it comes last."""
    file = "/proc/sys/kernel/unprivileged_bpf_disabled"
    for value in ("2", "0", "1"):
        guest.run("sh", "-c", f"echo {value} >{file}", check=True)
        assert guest.read(file).decode().strip() == value
        found = guest.call("vm.lacking_script:try_some", seconds=SECONDS)
        expected = states(report)
        assert found == {name: expected.get(name, "ok") for name in found}
        assert {"core", "static", *probe.names()} <= found.keys()
        one_line(guest.run(*NOBODY, *KMIND, "run", "blockio", guest.disk(0)), PRIVILEGE, "root")


def test_a_user_who_is_not_root(guest: Guest) -> None:
    done = guest.run(*NOBODY, *DOCTOR, seconds=SECONDS)
    assert done.code == PRIVILEGE
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert causes(found)["root"] == "user id 65534, not root"
    for each in (found["core"], *found["modules"]):
        assert each["state"] == "refused"
        assert "needs root" in each["cause"]


def test_root_without_the_capabilities_as_in_a_container(guest: Guest) -> None:
    done = guest.run(*NO_BPF, *DOCTOR, seconds=SECONDS)
    assert done.code == PRIVILEGE
    found = json.loads(done.stdout)
    why = "root lacks CAP_BPF, CAP_PERFMON, as in a container: agents cannot be loaded"
    hint = "start the container with --cap-add BPF --cap-add PERFMON"
    assert causes(found)["capabilities"] == f"{why}; {hint}"
    assert {each["state"] for each in (found["core"], *found["modules"])} == {"refused"}
    one_line(guest.run(*NO_BPF, *KMIND, "run", "blockio", guest.disk(0)), PRIVILEGE, why, hint)


def test_a_kernel_without_btf(guest: Guest) -> None:
    hide = "mount -t tmpfs none /sys/kernel/btf"
    done = guest.run(*hidden(hide, *DOCTOR), seconds=SECONDS)
    assert done.code == NOT_SUPPORTED
    found = json.loads(done.stdout)
    said = causes(found)
    assert said["btf"].startswith("this kernel shows no BTF: ")
    assert states(found)["ringbuf"] == "ok"
    for module in found["modules"]:
        assert module["state"] == "missing"
        assert module["cause"] == said["btf"]
    run = guest.run(*hidden(hide, *KMIND, "run", "blockio", guest.disk(0)), seconds=SECONDS)
    one_line(run, NOT_SUPPORTED, "BTF")


def test_a_kernel_with_btf_that_has_no_typed_tracepoints(guest: Guest) -> None:
    guest.call("vm.lacking_script:without_typed_tracepoints", "/run/types")
    hide = "mount --bind /run/types /sys/kernel/btf/vmlinux"
    done = guest.run(*hidden(hide, *DOCTOR), seconds=SECONDS)
    assert done.code == NOT_SUPPORTED
    found = json.loads(done.stdout)
    assert states(found)["btf"] == "ok"
    assert causes(found)["tp_btf"] == "this kernel has no btf_trace_mark_victim"
    assert found["core"] == {"state": "ok", "cause": ""}
    said = {module["name"]: module["cause"] for module in found["modules"]}
    for name in ("blockio", "slowio"):
        assert (
            said[name] == "this kernel has no tracepoint block_rq_issue, which hook on_issue needs"
        )
    # What it does without is told, and it goes on.
    lost = {module["name"]: module["lost"] for module in found["modules"]}
    assert states(found)["static"] == "partly"
    assert [each["hook"] for each in lost["static"]] == ["on_complete"]


def _install_refused(guest: Guest, folder: Path) -> None:
    # The module static with an agent that the verifier refuses, and a hook that it needs.
    source = folder / "static.bpf.c"
    source.write_text(REFUSED)
    compile_bpf(source, folder / "static.bpf.o")
    files = [*folder.glob("*.bpf.o"), STATIC / "module.toml", STATIC / "extension.py"]
    for path in files:
        data = path.read_bytes().replace(b'name = "static"', b'name = "refused"', 1)
        data = data.replace(b"optional = true\n", b"")
        guest.write(f"/etc/kmind/modules/refused/{path.name}", data)


def _listed(guest: Guest, names: Sequence[str]) -> None:
    # Wait until exactly these are loaded.
    deadline = time.monotonic() + SECONDS
    found: list[str] = []
    while time.monotonic() < deadline:
        done = guest.run(*KMIND, "list", "--json")
        alive = guest.run("sh", "-c", "kill -0 $(cat /run/daemon.pid)").code == 0
        if not alive:
            break
        if done.code == 0:
            found = sorted(each["name"] for each in json.loads(done.stdout)["instances"])
            if found == sorted(names):
                return
        time.sleep(1)
    raise AssertionError(f"{found}\n{guest.read('/run/daemon.log').decode()[-4000:]}")


def test_a_module_that_the_verifier_refuses_costs_no_other(guest: Guest, tmp_path: Path) -> None:
    """At the daemon's start, by modules.d, where it stands first; and when it is loaded by hand."""
    _install_refused(guest, tmp_path)
    disk = guest.disk(0)
    lines = (
        f"autoload refused {disk} value=64 mode=observe",
        f"autoload blockio {disk} mode=observe",
        "autoload dirty system mode=observe",
    )
    guest.write("/etc/kmind/modules.d/10-test.conf", "\n".join((*lines, "")).encode())
    guest.run(
        "sh",
        "-c",
        "python3 -m kmind daemon --no-devices >/run/daemon.log 2>&1 & echo $! >/run/daemon.pid",
    )
    _listed(guest, [f"blockio@{disk}", "dirty@system"])
    log = guest.read("/var/log/kmind/kmind.log").decode()
    said = f"10-test.conf:1: refused is not loaded for {disk}: cannot load on_complete of "
    assert said in log
    assert "the verifier says: " in log
    load = guest.run(*KMIND, "load", "refused", disk, "value=64", "--mode", "observe")
    one_line(load, LOAD, "cannot load on_complete of ", "the verifier says: ", "9999")
    guest.run(*KMIND, "load", "static", disk, "value=64", "--mode", "observe", check=True)
    _listed(guest, [f"blockio@{disk}", "dirty@system", f"static@{disk}"])
