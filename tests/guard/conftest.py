# SPDX-License-Identifier: Apache-2.0
"""Real knobs of this machine, put back whatever a test does to them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard.gate_support import PINS, PRESSURE, Admin
from guard.readers import READ_AHEAD
from guard.support import main_disk, spare_disk, values

from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.knobs import Target, get_knob


@pytest.fixture
def spare() -> Iterator[Target]:
    """A block device that nothing uses."""
    yield from _guarded(spare_disk())


@pytest.fixture
def disk() -> Iterator[Target]:
    """The machine's own disk; tests turn only what does not slow it."""
    yield from _guarded(main_disk(), "block.rq_affinity", "block.nomerges")


@pytest.fixture
def system() -> Iterator[Target]:
    yield from _guarded(Target.system())


def _guarded(target: Target, *names: str) -> Iterator[Target]:
    before = {
        name: value for (name, _), value in values(target).items() if name in names or not names
    }
    yield target
    for _ in range(2):  # a scheduler put back resets others
        for name, value in before.items():
            if get_knob(name).read(target) != value:
                get_knob(name).write(target, value)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Path of a test's journal: on a disk, so that fsync means something."""
    return tmp_path / "journal.db"


@pytest.fixture
def journal(state: Path) -> Iterator[Journal]:
    with Journal(state) as opened:
        yield opened


@pytest.fixture
def admin() -> Iterator[Admin]:
    other = Admin()
    yield other
    other.close()


@pytest.fixture
def base(system: Target) -> int:
    value = PRESSURE.read(system)
    assert isinstance(value, int)
    return value


@pytest.fixture
def pins(system: Target) -> Iterator[Path]:
    # Gone before the knobs of the system are put back.
    yield PINS
    Gate.discard(PINS)


@pytest.fixture
def actuator(journal: Journal) -> Actuator:
    return Actuator(journal, Policy())


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Target]:
    """A loop device with a file system, mounted at tmp_path/mnt."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    show = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    )
    device = show.stdout.strip()
    target = Target.block(device)
    before = READ_AHEAD.read(target)
    READ_AHEAD.write(target, 128)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", device, tmp_path / "mnt"], check=True)
    yield target
    subprocess.run(["umount", tmp_path / "mnt"], check=True)
    READ_AHEAD.write(target, before)
    subprocess.run(["losetup", "-d", device], check=True)
