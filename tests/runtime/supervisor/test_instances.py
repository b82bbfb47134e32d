# SPDX-License-Identifier: Apache-2.0
"""The instances of a supervisor: found by name, and each failing for itself."""

import selectors
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runtime.simulated import Simulated

from kmind.errors import UsageError
from kmind.runtime.supervisor.instances import Instances, Place
from kmind.runtime.supervisor.member import Member
from kmind.runtime.supervisor.state_folder import StateFolder


class Rig:
    """``Instances`` on a core that only counts, with one instance."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.released: list[int] = []
        core: Any = SimpleNamespace(
            root=None,
            leases=SimpleNamespace(release=self.released.append),
            set_process=lambda slot, pid, uid: None,
            unregister=lambda slot: None,
        )
        self.place = Place(core, folder / "run", "mine.")
        states = StateFolder(folder / "state")
        selector = selectors.DefaultSelector()
        self.instances = Instances(self.place, states, selector, self.lines.append)
        self.made = Simulated(folder)
        agent: Any = SimpleNamespace(generation=1)
        self.member = Member(self.made.instance, agent, 5, "readahead")
        self.instances.add(self.member)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    it = Rig(tmp_path)
    yield it
    for name in list(it.instances.by_name):
        it.instances.drop(name)
    it.made.journal.close()


def test_an_unknown_name_is_told_what_there_is(rig: Rig) -> None:
    assert rig.instances.get("readahead@sim0") is rig.member
    with pytest.raises(UsageError, match="no instance 'nonsense'") as caught:
        rig.instances.get("nonsense")
    assert caught.value.hint == "loaded: readahead@sim0"
    rig.instances.drop("readahead@sim0")
    with pytest.raises(UsageError) as caught:
        rig.instances.get("readahead@sim0")
    assert caught.value.hint == "loaded: nothing"


def test_an_error_in_one_is_its_emergency_and_frees_its_leases_once(rig: Rig) -> None:
    def explode() -> None:
        raise ZeroDivisionError("a bug")

    for _ in range(2):
        rig.instances.run(rig.member, explode)
    assert rig.made.instance.failed.startswith("internal error: ZeroDivisionError")
    assert rig.member.failed
    assert rig.released == [5]
    assert "a bug" in rig.lines[0]


def test_a_private_core_has_no_pins_and_no_log(rig: Rig) -> None:
    assert rig.place.pins("a@b") is None
    assert (rig.place.sandbox("a@b").cgroup, rig.place.sandbox("a@b").log) == ("mine.a@b", "")
