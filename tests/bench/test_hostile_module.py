# SPDX-License-Identifier: Apache-2.0
"""The hostile extension of the real adversary lives through what it does."""

import subprocess
import sys

from kmind.bench._adversary_real import _events_of

TOUCH = """
from types import SimpleNamespace
import ctypes, numpy as np
from kmind.bench import _hostile
made = _hostile.Hostile.__new__(_hostile.Hostile)
outlets = SimpleNamespace(port=SimpleNamespace(_words=np.zeros(1 << 20, np.uint8)))
knob = SimpleNamespace(name="x")
made.context = SimpleNamespace(
    params={}, knobs={"x": knob}, features={"read_ahead_kb": 0}, _outlets=outlets)
made.start()
for _ in range(20):
    made.touch()
print(ctypes.CDLL(None).getpid() > 0)
"""


def test_pages_that_it_drops_come_back() -> None:
    """It once dropped data of the C library, too, and died: an attack that cannot succeed."""
    done = subprocess.run([sys.executable, "-c", TOUCH], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done


def test_a_run_that_was_killed_may_leave_a_part_of_a_line() -> None:
    """It ended the whole measurement, once, after twelve minutes."""
    lines = ['{"event": "start"}\n', '{"event": "kept", "value": 8}\n', '{"event": "ver']
    assert [event["event"] for event in _events_of(lines)] == ["start", "kept"]
