# SPDX-License-Identifier: Apache-2.0
"""An extension that attacks, in a real daemon, beside a neighbour whose figures must not move.

Each attack is contained, counted by the kernel and named in the log; no knob takes a value
that policy forbids, and what was changed is put back.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kernel.attacked import Neighbour, Reads, accounts, eventually, hostile_module, rows
from sample_module import MANIFEST, RECOMMENDER, knob_file, loop_disk, make_module
from serve.real import Host, host

from kmind.knobs import Target

pytestmark = [
    pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap"),
    pytest.mark.fault,
]

BASELINE = 256
ALLOWED = {BASELINE, 512, 1024}  # what the attacks recommend that is within bounds


@dataclass
class World:
    """The daemon, the neighbour, and the disk that the hostile module is loaded for."""

    host: Host
    neighbour: Neighbour
    disk: str
    module: str
    since: float = 0.0
    file: Path | None = None
    baseline: int = BASELINE

    @property
    def name(self) -> str:
        """The hostile instance."""
        return f"hostile@{self.disk}"

    @property
    def value(self) -> int:
        """Return its knob's value."""
        return int((self.file or knob_file(self.disk)).read_text())

    def load(self, attack: str, *words: str, mode: str = "auto") -> int:
        """Load it; the process id of the extension."""
        words = (self.module, self.disk, f"attack={attack}", *words)
        self.since = time.time()
        self.host.kmind("load", *words, f"--mode={mode}")
        pid: int = self.host.instance(self.name)["extension"]["pid"]
        return pid

    def unload(self) -> None:
        """Unload it: nothing of it is left, and its knob stands as it did."""
        self.host.kmind("unload", self.name)
        assert self.value == self.baseline
        assert self.name not in rows(self.host)
        assert not self.host.exists(f"/sys/fs/bpf/kmind/instances/{self.name}")
        assert not self.host.exists(f"/sys/fs/bpf/kmind/agents/{self.name}")
        held = self.host.client.get("/v1/leases")["leases"]
        assert {each["holder"] for each in held} <= {self.neighbour.name}

    def count(self, key: str) -> int:
        """Return a counter of its account in the kernel."""
        return int(accounts(self.host, self.name)[key])

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Lines of the structured log about it, since it was loaded."""
        wanted = {"event": event, "instance": self.name} | fields
        lines = [line for line in self.host.log() if line["ts"] >= self.since]
        return [line for line in lines if all(line.get(k) == v for k, v in wanted.items())]

    def named(self, what: str) -> None:
        """Wait until the log says in so many words what it does."""
        eventually(lambda: [x for x in self.logged("log") if what in x["message"]])

    def refused(self, *verdicts: str) -> None:
        """Wait until it was refused so, by the kernel's count and by the log."""
        for verdict in verdicts:
            eventually(lambda verdict=verdict: self.count(f"verdict_{verdict}"))
            eventually(lambda verdict=verdict: self.logged("verdict", verdict=verdict))

    def failed(self, why: str) -> None:
        """Wait for its emergency: by the kernel's account, in the log, and the knob put back."""
        (line, *_) = eventually(lambda: self.logged("mode", mode="emergency"))
        assert why in line["why"], line
        assert accounts(self.host, self.name)["mode"] == "emergency"
        assert rows(self.host)[self.name]["held"] == "0"
        assert self.value == BASELINE
        assert self.host.instance(self.name)["state"] == "failed"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp(name) for name in ("host", "ours", "theirs", "module")]
        disks = [stack.enter_context(loop_disk(folder)) for folder in folders[1:3]]
        for disk in disks:
            knob_file(disk).write_text(str(BASELINE))
        machine = stack.enter_context(host(folders[0]))
        machine.start()
        neighbour = Neighbour(machine, disks[0])
        yield World(machine, neighbour, disks[1], hostile_module(folders[3]))
        assert machine.end() == 0
        assert [int(knob_file(disk).read_text()) for disk in disks] == [BASELINE, BASELINE]


@pytest.fixture
def world(daemon: World) -> Iterator[World]:
    """The same daemon for all: an attack that is contained leaves nothing to the next."""
    daemon.host.kmind("status")
    yield daemon
    if daemon.name in rows(daemon.host):
        daemon.unload()
    assert daemon.host.daemon is not None
    assert daemon.host.daemon.poll() is None


@pytest.fixture
def stirred(world: World) -> Iterator[None]:
    """The hostile module's own disk is read too, so that its hooks have something to do."""
    with Reads(world.disk):
        yield


def gone(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists()


@pytest.mark.usefixtures("stirred")
def test_scribbling_over_the_whole_arena(world: World) -> None:
    with world.neighbour.unmoved():
        world.load("scribble")
        world.refused("torn")
        eventually(lambda: world.count("bad_tail") > 10)
        world.named(f"the extension of {world.name} wrote an invalid queue tail")
        ticks = world.count("ticks")
        eventually(lambda: world.count("ticks") > ticks + 100)
        assert world.value == BASELINE
        world.host.instance(world.name)
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_forged_records_and_a_forged_mode(world: World) -> None:
    """Records and modes forged in the arena move neither accounts nor verdicts."""
    with world.neighbour.unmoved():
        world.load("forge", mode="advise")
        eventually(lambda: world.count("verdict_advised") > 5)
        shown = accounts(world.host, world.name)
        assert shown["mode"] == rows(world.host)[world.name]["mode"] == "advise"
        assert shown["verdict_approved"] == shown["applied"] == "0"
        assert int(shown["pushed"]) < 1 << 30
        assert int(shown["dropped"]) < 1 << 30
        assert int(shown["heartbeat_ms"]) < 3600_000
        assert world.value == BASELINE
        assert eventually(lambda: world.logged("verdict", verdict="advised"))
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_replayed_ids(world: World) -> None:
    with world.neighbour.unmoved():
        world.load("replay")
        eventually(lambda: world.value == 512)
        world.refused("replayed")
        assert world.count("verdict_approved") == 1
        assert world.value == 512
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_knobs_and_targets_of_others(world: World) -> None:
    theirs = Target.block(world.neighbour.disk).id
    with world.neighbour.unmoved():
        world.load("trespass", f"target={theirs}")
        world.refused("unknown")
        eventually(lambda: world.count("verdict_unknown") > 200)
        assert world.count("verdict_approved") == 0
        assert {each["target"] for each in world.logged("verdict", verdict="approved")} == set()
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_values_that_policy_forbids(world: World) -> None:
    with world.neighbour.unmoved():
        world.load("forbidden")
        world.refused("range", "grid", "type")
        shown = accounts(world.host, world.name)
        assert shown["verdict_approved"] == shown["applied"] == "0"
        assert world.value == BASELINE
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_flooding_the_completion_queue(world: World) -> None:
    """It is slowed, by itself: the log has some of it, the neighbour notices nothing."""
    with world.neighbour.unmoved():
        world.load("flood")
        eventually(lambda: world.count("actions_lost") > 100)
        eventually(lambda: world.count("bad_tail"))
        world.named("recommends faster than it is served")
        world.named("an invalid queue tail")
        world.refused("rate")
        assert world.value in ALLOWED
        shown = accounts(world.host, world.name).items()
        answered = sum(int(value) for key, value in shown if key.startswith("verdict_"))
        assert len(world.logged("verdict")) < answered
        world.unload()


def test_a_sysctl_that_the_gate_guards(world: World, tmp_path: Path) -> None:
    """Neither its file nor the queue gets a value through that policy forbids."""
    file = Path("/proc/sys/vm/page_lock_unfairness")
    before = file.read_text()
    file.write_text("5")
    hostile = World(
        world.host, world.neighbour, "system",
        hostile_module(tmp_path, "vm.page_lock_unfairness", "system"), file=file, baseline=5,
    )  # fmt: skip
    try:
        with world.neighbour.unmoved():
            hostile.load("sysctl")
            eventually(lambda: hostile.value == 7)
            hostile.refused("range", "rate")
            eventually(lambda: hostile.logged("log", message="sysctl: 1 of 1 refused"))
            until = time.monotonic() + 2
            seen = set()
            while time.monotonic() < until:
                seen.add(hostile.value)
            assert seen <= {5, 7, 8}
            hostile.unload()
    finally:
        if hostile.name in rows(world.host):
            world.host.kmind("unload", hostile.name)
        file.write_text(before)


def test_processes_and_threads(world: World) -> None:
    with world.neighbour.unmoved():
        pid = world.load("fork")
        (line, *_) = eventually(lambda: world.logged("log", message="fork: 400 of 400 refused"))
        assert line["source"] == "extension"
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
        world.unload()


def test_eating_memory(world: World) -> None:
    with world.neighbour.unmoved():
        pid = world.load("memory")
        world.failed("memory: it took more than 64 MiB and was killed for it")
        eventually(gone(pid))
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_no_sign_of_life(world: World) -> None:
    with world.neighbour.unmoved():
        pid = world.load("stall")
        eventually(lambda: world.value == 512)
        world.failed("was silent for 3 s")
        eventually(gone(pid))
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_spinning_with_a_heart_that_beats(world: World) -> None:
    with world.neighbour.unmoved():
        pid = world.load("burn")
        eventually(lambda: world.value == 512)
        world.failed("exceeded a limit: cpu")
        eventually(gone(pid))
        world.unload()


def test_files_sockets_and_system_calls(world: World) -> None:
    with world.neighbour.unmoved():
        pid = world.load("reach")
        (line, *_) = eventually(
            lambda: [x for x in world.logged("log") if x["message"].startswith("reach: ")]
        )
        refused, _, tried, _ = line["message"].removeprefix("reach: ").split()
        assert refused == tried, line
        # Streams, doorbell, and nothing new.
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 5
        world.unload()


@pytest.mark.usefixtures("stirred")
def test_running_on_after_the_unload(world: World) -> None:
    """Deaf to all signals, in a loop without end: it is gone all the same."""
    with world.neighbour.unmoved():
        pid = world.load("deaf")
        eventually(lambda: world.logged("log", message="deaf now"))
        ignored = int(
            next(
                line.split()[1]
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith("SigIgn")
            ),
            16,
        )
        assert ignored.bit_count() > 20
        assert world.value == 512
        world.unload()
        assert gone(pid)()


@pytest.mark.usefixtures("stirred")
def test_dying_with_a_lease_in_hand(world: World, tmp_path: Path) -> None:
    """Another instance waits for the knob, is told who holds it, and has it right afterwards."""
    manifest = MANIFEST.replace('"sample"', '"heir"', 1).replace("default = 512", "default = 1024")
    heir = f"heir@{world.disk}"
    module = str(make_module(tmp_path, RECOMMENDER, manifest))
    with world.neighbour.unmoved():
        world.load("die", f"at={time.monotonic() + 6}")
        eventually(lambda: world.value == 512)
        world.host.kmind("load", module, world.disk, "--mode=auto")
        denied = eventually(
            lambda: [
                line
                for line in world.host.log()
                if line["event"] == "verdict"
                and line["instance"] == heir
                and line["verdict"] == "lease"
            ]
        )
        assert denied[0]["holder"] == world.name
        assert int(accounts(world.host, heir)["verdict_lease"]) > 0
        eventually(
            lambda: world.logged(
                "mode", mode="emergency", why=f"the extension of {world.name} ended with status 0"
            )
        )
        assert rows(world.host)[world.name]["held"] == "0"
        eventually(lambda: world.value == 1024)
        assert rows(world.host)[heir]["held"] == "1"
        world.host.kmind("unload", heir)
        assert world.value == BASELINE
        world.unload()
