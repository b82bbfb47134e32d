# SPDX-License-Identifier: Apache-2.0
"""The daemon with the real supervisor on the real kernel, as an admin uses it."""

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_module import knob_file, loop_disk, make_module
from serve.fuzz import fuzz, session_at
from serve.real import Host, host

import kmind.serve
from kmind.errors import KmindError

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

UNIT = Path(kmind.serve.__file__).parent / "kmind.service"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with loop_disk(tmp_path) as name:
        # What an earlier disk of that number was set to stands still.
        knob_file(name).write_text("256")
        yield name


@pytest.fixture
def machine(tmp_path: Path, disk: str) -> Iterator[Host]:
    with host(tmp_path) as it:
        yield it


def wait_for(what: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # A request that a restart cuts off is asked again.
        with contextlib.suppress(KmindError):
            if found := what():
                return found
        time.sleep(0.05)
    raise AssertionError("it did not come about")


def refusals(machine: Host) -> int:
    """Return how often it refused a configuration that it was to read again."""
    return sum("not reloaded" in str(event.get("message")) for event in machine.log())


def knob(disk: str) -> int:
    return int(knob_file(disk).read_text())


def test_a_session(machine: Host, disk: str, tmp_path: Path) -> None:
    """Load, look without the daemon, restart in place, reload, unload: as the page shows it."""
    module, name, baseline = str(make_module(tmp_path)), f"sample@{disk}", knob(disk)
    machine.start()
    done = machine.kmind("load", module, disk, "--mode=auto")
    assert done == f"loaded {name}, mode auto; to undo: kmind unload {name}\n"
    wait_for(lambda: knob(disk) == 512)
    row = next(r for r in machine.cat("/sys/fs/bpf/kmind/stats").splitlines() if name in r)
    assert " auto " in row
    assert machine.exists(f"/sys/fs/bpf/kmind/instances/{name}")
    leases = machine.client.get("/v1/leases")["leases"]
    assert [(each["holder"], each["knob"]) for each in leases] == [(name, "block.read_ahead_kb")]

    before = machine.instance(name)
    shown = machine.kmind("daemon", "--replace")
    assert re.fullmatch(r"the daemon, pid \d+, restarted in [\d.]+ s; 1 instances go on\n", shown)
    after = machine.instance(name)
    assert knob(disk) == 512
    assert after["extension"]["pid"] == before["extension"]["pid"]
    assert after["account"]["ticks"] > before["account"]["ticks"]
    assert after["account"]["undone"] == before["account"]["undone"]

    assert "generation 2 runs" in machine.kmind("reload", name)
    assert machine.instance(name)["generation"] == 2
    unloaded = machine.kmind("unload", name)
    assert unloaded.startswith(f"unloaded {name}\n  block.read_ahead_kb was {baseline} -> 512")
    assert f"holds {baseline} again" in unloaded
    assert knob(disk) == baseline
    assert machine.end() == 0
    assert not machine.exists("/sys/fs/bpf/kmind")
    asked = [(e["method"], e["result"]) for e in machine.log() if e["event"] == "request"]
    assert asked == [("POST", "done"), ("POST", "done"), ("DELETE", "done")]


def test_the_end_puts_all_back(machine: Host, disk: str, tmp_path: Path) -> None:
    baseline = knob(disk)
    machine.start()
    machine.kmind("load", str(make_module(tmp_path)), disk, "--mode=auto")
    wait_for(lambda: knob(disk) == 512)
    assert machine.end() == 0
    assert knob(disk) == baseline


@pytest.mark.fault
@pytest.mark.parametrize("way", ["killed", "kept"])
def test_what_is_left_is_taken_over(machine: Host, disk: str, tmp_path: Path, way: str) -> None:
    """By a daemon that was killed, or was told to keep it; the knob is not touched."""
    name, baseline = f"sample@{disk}", knob(disk)
    machine.start("--on-exit=keep")
    machine.kmind("load", str(make_module(tmp_path)), disk, "--mode=auto")
    wait_for(lambda: knob(disk) == 512)
    pid = machine.instance(name)["extension"]["pid"]
    machine.end(signal.SIGKILL if way == "killed" else signal.SIGTERM)
    assert knob(disk) == 512
    ticks = int(re.findall(r"ticks\s+(\d+)", machine.cat(f"/sys/fs/bpf/kmind/instances/{name}"))[0])
    machine.start()
    after = machine.instance(name)
    assert after["extension"]["pid"] == pid
    assert after["account"]["ticks"] > ticks
    assert knob(disk) == 512
    machine.kmind("unload", name)
    assert knob(disk) == baseline
    machine.end()


@pytest.mark.fault
def test_what_is_left_is_put_back_if_the_admin_says_so(
    machine: Host, disk: str, tmp_path: Path
) -> None:
    baseline = knob(disk)
    machine.start()
    machine.kmind("load", str(make_module(tmp_path)), disk, "--mode=auto")
    wait_for(lambda: knob(disk) == 512)
    machine.end(signal.SIGKILL)
    machine.start("--at-start=restore")
    assert machine.client.get("/v1/instances")["instances"] == []
    assert knob(disk) == baseline
    machine.end()


def test_advice_is_applied_and_undone(machine: Host, disk: str, tmp_path: Path) -> None:
    baseline = knob(disk)
    machine.start()
    machine.kmind("load", str(make_module(tmp_path)), disk, "--mode=advise")
    wait_for(lambda: "sample" in machine.kmind("advice"))
    advice = json.loads(machine.kmind("advice", "--json"))["advice"][0]
    assert (advice["value"], advice["reason"]) == (512, "The test says so.")
    assert "to undo: kmind advice undo" in machine.kmind("advice", "apply", advice["id"])
    assert knob(disk) == 512
    machine.kmind("advice", "undo", advice["id"])
    assert knob(disk) == baseline
    machine.end()


def test_the_capabilities_of_the_unit_are_enough(machine: Host, disk: str, tmp_path: Path) -> None:
    """Without new privileges, and with no other capability than the unit grants."""
    named = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    granted = [f"+{word.removeprefix('CAP_').lower()}" for word in " ".join(named).split()]
    under = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *granted])]
    baseline = knob(disk)
    machine.start(under=[*under, "--inh-caps=-all"])
    assert machine.daemon is not None
    status = Path(f"/proc/{machine.daemon.pid}/status").read_text()
    effective = int(re.findall(r"CapEff:\s*(\w+)", status)[0], 16)
    assert effective.bit_count() <= len(granted)
    machine.kmind("load", str(make_module(tmp_path)), disk, "--mode=auto")
    wait_for(lambda: knob(disk) == 512)
    machine.kmind("daemon", "--replace")
    assert machine.kmind("unload", f"sample@{disk}")
    assert knob(disk) == baseline
    assert machine.end() == 0


def test_requests_made_of_the_description(machine: Host, disk: str, tmp_path: Path) -> None:
    """Each answer is as described, whatever the request, and the daemon and its instance go on."""
    module, name, baseline = str(make_module(tmp_path)), f"sample@{disk}", knob(disk)
    began = machine.start()
    body = {"module": module, "target": disk, "mode": "observe"}
    machine.client.call("POST", "/v1/instances", body)
    with session_at(machine.client.path) as session:
        assert fuzz(session, module, disk, rounds=6) > 3
    assert machine.began() == began
    assert machine.client.get("/v1/health")["ok"]
    for each in machine.client.get("/v1/instances")["instances"]:
        assert not each["failed"]
    if name in [each["name"] for each in machine.client.get("/v1/instances")["instances"]]:
        machine.kmind("unload", name)
    assert knob(disk) == baseline
    assert not [event for event in machine.log() if event["event"] == "trouble"]
    assert machine.end() == 0


def test_a_policy_that_is_read_again(machine: Host, disk: str, tmp_path: Path) -> None:
    """A wrong one changes nothing; a stricter one holds for what runs already."""
    name, policy = f"sample@{disk}", tmp_path / "policy.toml"
    policy.write_text('[knob."block.read_ahead_kb"]\nmax = 1024\n')
    began = machine.start(f"--policy={policy}")
    machine.kmind("load", str(make_module(tmp_path)), disk, "--mode=auto")
    wait_for(lambda: knob(disk) == 512)
    assert machine.daemon is not None
    for turn, bad in enumerate(("[knob.nonsense]\n", "min = " + "9" * 5000, "min = " + "[" * 3000)):
        policy.write_text(bad)
        machine.daemon.send_signal(signal.SIGHUP)
        wait_for(lambda turn=turn: refusals(machine) == turn + 1)
        assert machine.began() == began
    policy.write_text('[knob."block.read_ahead_kb"]\nmax = 300\n')
    machine.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: machine.instance(name)["account"]["verdict_range"] > 0)
    assert machine.began() > began
    machine.end()
