# SPDX-License-Identifier: Apache-2.0
"""A tap takes down what a simulated agent says, in its order, with the knob as it was."""

from pathlib import Path

import numpy as np
import pytest
from runtime.counted import BASE

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.extension import find_module
from kmind.guard import Policy
from kmind.learn.recorded_instance import RecordedInstance
from kmind.learn.recording import Recording, open_recordings
from kmind.learn.tap import Tap
from kmind.learn.writer import Writer, open_output
from kmind.queue import Endpoint
from kmind.runtime.holds.grants import grants_for
from kmind.workloads.simulated_disk import make_disk_files

READS = BASE.columns["reads"]
WINDOW_NS = 100_000_000


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 10**12
        module = find_module("readahead")
        self.target = make_disk_files(folder / "root", read_ahead_kb=128)
        self.knob = folder / "root/sys/block/sim0/queue/read_ahead_kb"
        self.agent = SimAgent(realtime=False, now_ns=self.now)
        granted, _ = grants_for(module, self.target, Policy(), {})
        recorded = RecordedInstance(module, self.target, {}, self.agent, granted, 0.1)
        endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        self.writer = Writer(open_output(folder / "out"), 1 << 30, 2)
        self.tap = Tap(
            recorded, endpoint, self.writer, streams=("windows", "records"), now_ns=lambda: self.now
        )
        self.agent.start()

    def window(self, reads: int) -> None:
        self.agent.count(READS, reads)
        self.now += WINDOW_NS
        self.agent.step(self.now)

    def close(self) -> Recording:
        self.tap.drain()
        self.tap.flush()
        self.writer.close()
        self.agent.close()
        (recording,) = open_recordings(self.folder / "out")
        return recording


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_all_windows_are_taken_down_in_order(rig: Rig) -> None:
    for reads in range(1, 21):
        rig.window(reads)
        rig.tap.drain()
    found = [rows for _, rows, _ in rig.close().windows()]
    column = np.concatenate(found)["value"][:, READS]
    assert column[column > 0].tolist() == list(range(1, 21))
    assert rig.tap.windows == len(column)
    assert rig.tap.counts().ring_lost == rig.tap.dropped == 0


def test_window_in_which_a_knob_changed_has_no_value_of_it(rig: Rig) -> None:
    for _ in range(5):
        rig.window(1)
    rig.tap.drain()
    rig.tap.flush()
    rig.window(1)
    rig.knob.write_text("16\n")
    rig.tap.look()
    for _ in range(5):
        rig.window(1)
    knobs = np.concatenate([knobs for _, _, knobs in rig.close().windows()])[:, 0]
    known = knobs[knobs > 0]
    assert set(known) == {16, 128}
    assert (np.diff(known) <= 0).all()
    assert 0 < len(known) < len(knobs)


def test_fullness_of_the_rings_says_how_late_it_is(rig: Rig) -> None:
    rig.window(1)
    assert rig.tap.drain() == 0.0  # windows have a ring of their own
    rig.close()
