# SPDX-License-Identifier: Apache-2.0
"""Experiments of whole instances on the real kernel, and what can go wrong in the middle.

The load is the test's own, and is made to go faster under the value that is tried: that
is no effect of the kernel's, and is not meant to be.
"""

import contextlib
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.supervised import Daemon, Rig, value_of
from sample_module import MANIFEST, RECOMMENDER, knob_file, loop_disk

from kmind.extension import find_module
from kmind.runtime.evidence_store import EvidenceStore

pytestmark = [
    pytest.mark.fault,
    pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap"),
]

MEASURED = (
    MANIFEST.partition("[[feature]]")[0]
    + """\
[[hook]]
program = "on_complete"
tracepoint = "block_rq_complete"

[[outcome]]
name = "reads"
better = "higher"
numerator = ["device_reads"]
help = "what the disk served"

[evidence]
block_s = 0.06
wash_out_s = 0.01
max_s = {max_s}

"""
    + "".join(
        f'[[feature]]\nname = "{f.name}"\nkind = "{f.kind}"\nhelp = "{f.name}"\n\n'
        for f in find_module("readahead").manifest.features
    )
)
GAIN = MEASURED.format(max_s=20)
ENDLESS = MEASURED.format(max_s=3600)
WORDS = ("hold_s=3", "every_s=0.5")


@contextlib.contextmanager
def load(disk: str, pause_s: Callable[[int], float]) -> Iterator[None]:
    """Read from a disk all the time, with pauses that depend on its knob."""
    done = threading.Event()

    def read() -> None:
        fd = os.open(f"/dev/{disk}", os.O_RDONLY | os.O_DIRECT)
        page = mmap.mmap(-1, 4096)
        while not done.is_set():
            value = value_of(disk)
            for _ in range(5):
                os.preadv(fd, [page], 0)
                time.sleep(pause_s(value))
        os.close(fd)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with loop_disk(tmp_path) as name:
        yield name


@pytest.fixture
def rig(tmp_path: Path, disk: str) -> Iterator[Rig]:
    made, before = Rig(tmp_path), value_of(disk)
    try:
        yield made
    finally:
        made.close()
        assert value_of(disk) == before


def begun(rig: Rig, disk: str, manifest: str, extension: str = RECOMMENDER) -> str:
    """An experiment under way; the instance's name."""
    rig.start()
    name = rig.load(rig.module(extension=extension, manifest=manifest), disk, *WORDS)
    rig.run_until(lambda: rig.of("experiment"))
    rig.run_until(lambda: value_of(disk) == 512)
    return name


def faster(value: int) -> float:
    return 0.0005 if value == 512 else 0.002


def steady(value: int) -> float:
    return 0.001


def outcome(rig: Rig) -> tuple[str, bool]:
    (result,) = rig.of("result")
    return result["outcome"], result["kept"]


def test_a_gain_is_kept_and_ends_with_the_extension_s_interest(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    # It recommends until it hears that the value is kept.
    tired = RECOMMENDER.replace(
        "if self.context.now() < self.at:", "if self.context.now() < self.at or self.kept:"
    )
    tired = tired.replace("self.seen = []", "self.seen, self.kept = [], False")
    tired = tired.replace(
        "def on_change(self, change):",
        "def on_change(self, change):\n        self.kept = change.kind == 'kept'",
    )
    with load(disk, faster):
        name = begun(rig, disk, GAIN, tired)
        # On a busy machine one may be void: then the value is tried again, somewhat later.
        rig.run_until(lambda: any(result["outcome"] != "aborted" for result in rig.of("result")))
        result = rig.of("result")[-1]
        assert (result["outcome"], result["kept"]) == ("gain", True)
        assert rig.of("kept")[0]["old"] == before
        assert value_of(disk) == 512
        rig.run_until(lambda: rig.of("undone"))
    assert value_of(disk) == before
    assert rig.supervisor
    row = rig.supervisor.evidence.get(str(result["experiment"]))
    assert (row["instance"], row["backend"], row["state"]) == (name, "bpf", "ended")
    account = rig.supervisor.status(name)[0]["account"]
    assert account["applied"] == account["undone"] >= 1


def test_somebody_else_sets_the_knob(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    with load(disk, steady):
        begun(rig, disk, ENDLESS)
        knob_file(disk).write_text("64")
        rig.run_until(lambda: rig.of("result"))
        assert outcome(rig) == ("aborted", False)
        rig.run_for(1.0)
        assert value_of(disk) == 64
        assert len(rig.of("yielded")) == 1
    knob_file(disk).write_text(str(before))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_extension_ends_or_stalls(rig: Rig, disk: str, number: signal.Signals) -> None:
    before = value_of(disk)
    with load(disk, steady):
        name = begun(rig, disk, ENDLESS)
        assert rig.supervisor
        os.kill(rig.supervisor.status(name)[0]["extension"]["pid"], number)
        rig.run_until(lambda: rig.of("mode"))
        assert rig.of("mode")[0]["mode"] == "emergency"
        assert value_of(disk) == before
        # Stopped, it is seen to stall a moment later: by then a verdict may have come.
        assert number == signal.SIGSTOP or outcome(rig) == ("aborted", False)


def test_the_daemon_is_replaced(rig: Rig, disk: str) -> None:
    before = value_of(disk)
    with load(disk, steady):
        name = begun(rig, disk, ENDLESS)
        assert rig.supervisor
        rig.supervisor.close(keep=True)
        assert value_of(disk) == before
        assert outcome(rig) == ("aborted", False)
        rig.events.clear()
        supervisor = rig.start()
        assert list(supervisor.members) == [name], rig.of("log")
        rig.run_until(lambda: rig.of("experiment"))  # and goes on to measure


@pytest.mark.parametrize("take_over", [True, False])
def test_the_daemon_is_killed(rig: Rig, disk: str, take_over: bool) -> None:
    before = value_of(disk)
    module = rig.module(manifest=ENDLESS)
    with load(disk, steady):
        daemon = Daemon(rig.folder, f"{module} {disk} {' '.join(WORDS)}")
        try:
            number = daemon.wait_for("experiment")["experiment"]
            while value_of(disk) != 512:
                time.sleep(0.005)
        finally:
            daemon.kill()
        supervisor = rig.start(take_over=take_over)
        assert len(supervisor.members) == take_over
        assert value_of(disk) == before
        row = supervisor.evidence.get(str(number))
        assert (row["state"], row["why"]) == ("interrupted", "its owner was killed")
        if take_over:
            rig.run_until(lambda: rig.of("experiment"))


def test_what_was_on_record_can_be_shown(rig: Rig, disk: str, tmp_path: Path) -> None:
    from kmind.cli.why import _table, _whole

    with load(disk, faster):
        begun(rig, disk, GAIN)
        rig.run_until(lambda: rig.of("result"))
        number = rig.of("result")[0]["experiment"]
    rig.close()
    with EvidenceStore(tmp_path / "evidence.db") as store:
        rows: list[dict[str, Any]] = store.latest()
        assert "512" in _table(rows)
        text = _whole(store.get(str(number)))
    assert "proposed: The test says so." in text
    assert "gain" in text
