# SPDX-License-Identifier: Apache-2.0
"""Recordings of a simulated disk, taken down by the code that records a real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.extension import find_module, parse_parameters
from kmind.guard import Policy
from kmind.learn.recorded_instance import RecordedInstance
from kmind.learn.recording import Recording, open_recordings
from kmind.learn.tap import Tap
from kmind.learn.writer import Writer, open_output
from kmind.queue import Endpoint
from kmind.runtime.holds.grants import grants_for
from kmind.workloads import streams
from kmind.workloads.simulated_disk import DiskModel, SimulatedDisk, make_disk_files

PAGES = 1 << 16
MODEL = DiskModel(file_pages=PAGES, cache_pages=PAGES // 4)

RecordDisk = Callable[[Path], Recording]


@pytest.fixture
def record_disk(tmp_path: Path) -> RecordDisk:
    """Records four virtual seconds of reads at random, of which readahead makes something."""

    def record(output: Path) -> Recording:
        module = find_module("readahead")
        agent = SimAgent(realtime=False, now_ns=10**12)
        folder = tmp_path / "disk"
        folder.mkdir()
        target = make_disk_files(folder, read_ahead_kb=8192)
        disk = SimulatedDisk(agent, target, MODEL, now=1000.0)
        writer = Writer(open_output(output), 1 << 24, 2)
        recorded = RecordedInstance(
            module,
            target,
            parse_parameters(module.manifest, []),
            agent,
            grants_for(module, target, Policy(), {})[0],
            0.1,
            tags={"workload": "random"},
        )
        endpoint = Endpoint(agent.arena, SimDoorbell(agent.doorbell_fd))
        tap = Tap(recorded, endpoint, writer, now_ns=lambda: round(disk.now * 1e9))
        agent.set_mode(Mode.OBSERVE)
        agent.start()

        def each_tick() -> None:
            # Two misses a tick, as the agent pushes them with events=true.
            agent.push(64, 7, round(disk.now * 1e3) % 1000)
            agent.push(64, 8, 3)
            tap.drain()

        stream = streams.random(1_000_000, pages=PAGES)
        disk.run(stream, 4, mapped=True, each_tick=each_tick)
        tap.drain()
        tap.flush()
        writer.close()
        agent.close()
        return open_recordings(output)[0]

    return record
