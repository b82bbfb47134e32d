# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random points: after a restore each knob has its first value."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest

from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import Knob, Target, Value, get_knob

KILLS = int(os.environ.get("KMIND_KILLS", "200"))

CHOICES: dict[str, tuple[Value, ...]] = {
    "block.read_ahead_kb": (0, 16, 64, 512, 4096),
    "block.scheduler": ("none", "mq-deadline"),
    "block.nr_requests": (32, 64, 100),
    "block.rq_affinity": (0, 1, 2),
    "block.nomerges": (0, 1, 2),
    "vm.vfs_cache_pressure": (50, 101, 200),
    "vm.stat_interval": (1, 2, 3),
    "vm.dirty_expire_centisecs": (2000, 4000),
}
"""Values to choose from, for each knob that takes part."""


def torment(path: Path, knobs: list[tuple[Knob, Target]], seed: int, began: int) -> None:
    """Change knobs at random, undo some, until killed; write a byte after each change."""
    rng = random.Random(seed)
    actuator = Actuator(Journal(path), Policy())
    while True:
        knob, target = rng.choice(knobs)
        if rng.random() < 0.25 and actuator.held:
            actuator.undo(rng.choice(actuator.held))
        else:
            value = rng.choice(CHOICES[knob.name])
            actuator.apply(knob, target, value, who="torment@test", why="to be killed")
            os.write(began, b".")


@pytest.mark.kernel
@pytest.mark.fault
@pytest.mark.slow
def test_every_knob_is_restored_after_kill_at_random_points(
    state: Path, disk: Target, spare: Target, system: Target
) -> None:
    knobs = [(get_knob(n), system) for n in CHOICES if n.startswith("vm.")]
    offered = Path(get_knob("block.scheduler").place(spare)).read_text()
    names = [n for n in CHOICES if n != "block.scheduler" or "mq-deadline" in offered]
    knobs += [(get_knob(n), spare) for n in names if n.startswith("block.")]
    knobs += [(get_knob(n), disk) for n in ("block.rq_affinity", "block.nomerges")]

    def now() -> dict[tuple[str, str], Value]:
        return {(knob.name, target.name): knob.read(target) for knob, target in knobs}

    first = now()
    rng = random.Random(20240607)
    interrupted = 0
    for turn in range(KILLS):
        began, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                torment(state, knobs, turn, write_end)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(3)
        os.close(write_end)
        if turn % 4:  # some are killed as they begin, however busy the machine is
            os.read(began, 1)
        time.sleep(rng.uniform(0.003, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.close(began)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, turn
        if turn % 3 == 0:  # a restore may be killed as well
            pid = os.fork()
            if pid == 0:
                try:
                    with Journal(state) as journal:
                        restore(journal)
                finally:
                    os._exit(0)
            time.sleep(rng.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        with Journal(state) as journal:
            interrupted += bool(journal.open_changes())
            report = restore(journal)
            assert report.skipped == (), turn
            assert report.unrecorded is None
            assert not journal.open_changes()
        assert now() == first, turn
    assert interrupted > KILLS // 3, "most kills came before a change"
