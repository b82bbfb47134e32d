# SPDX-License-Identifier: Apache-2.0
"""``on_daemon_death = "keep"`` keeps current values, and nothing that was being measured."""

from collections.abc import Callable
from pathlib import Path

import pytest
from guard.support import in_child

from kmind.guard import Actuator, Change, Journal, Policy, restore
from kmind.knobs import Target, get_knob
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")
WHO = "test@sim0"


@pytest.fixture
def target(tmp_path: Path) -> Target:
    target = make_disk_files(tmp_path / "root")
    KNOB.write(target, 128)
    return target


@pytest.fixture
def keep(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text('[defaults]\non_daemon_death = "keep"\n')
    return Policy.load(path)


def dies(state: Path, target: Target, act: Callable[[Actuator], object]) -> None:
    """A process does that, and is gone."""

    def child() -> None:
        act(Actuator(Journal(state), Policy(), root=target.root))

    assert in_child(child) == 0


def set_(actuator: Actuator, target: Target, value: int, **more: bool) -> Change:
    return actuator.apply(KNOB, target, value, who=WHO, why="", **more)


def test_what_stands_is_kept(target: Target, state: Path, journal: Journal, keep: Policy) -> None:
    dies(state, target, lambda actuator: set_(actuator, target, 16))
    assert [each.found for each in restore(journal, keep, root=target.root).kept] == [16]
    assert KNOB.read(target) == 16
    assert journal.open_changes() == []


@pytest.mark.parametrize("candidate", [True, False])
def test_a_candidate_in_mid_experiment_is_put_back(
    target: Target, state: Path, journal: Journal, keep: Policy, candidate: bool
) -> None:
    def measure(actuator: Actuator) -> None:
        change = set_(actuator, target, 16, parked=True)
        actuator.resume(change)
        if not candidate:
            actuator.park(change)

    dies(state, target, measure)
    assert KNOB.read(target) == (16 if candidate else 128)
    done = restore(journal, keep, root=target.root)
    assert done.kept == ()
    assert KNOB.read(target) == 128
    assert journal.open_changes() == []


def test_what_stood_before_the_candidate_is_kept(
    target: Target, state: Path, journal: Journal, keep: Policy
) -> None:
    def measure(actuator: Actuator) -> None:
        set_(actuator, target, 64)
        actuator.resume(set_(actuator, target, 16, parked=True))

    dies(state, target, measure)
    done = restore(journal, keep, root=target.root)
    assert KNOB.read(target) == 64
    assert [each.to for each in done.restored] == [64]
    assert len(done.kept) == 1
    assert journal.open_changes() == []


def test_what_is_measured_once_more_is_on_trial_again(
    target: Target, state: Path, journal: Journal, keep: Policy
) -> None:
    def measure(actuator: Actuator) -> None:
        change = set_(actuator, target, 16, parked=True)
        actuator.resume(change)
        actuator.set_trial(change, False)
        actuator.set_trial(change, True)

    dies(state, target, measure)
    restore(journal, keep, root=target.root)
    assert KNOB.read(target) == 128


def test_what_passed_its_trial_is_kept(
    target: Target, state: Path, journal: Journal, keep: Policy
) -> None:
    def measure(actuator: Actuator) -> None:
        change = set_(actuator, target, 16, parked=True)
        actuator.resume(change)
        actuator.set_trial(change, False)

    dies(state, target, measure)
    restore(journal, keep, root=target.root)
    assert KNOB.read(target) == 16


def test_what_stands_for_a_moment_only_is_put_back(
    target: Target, state: Path, journal: Journal, keep: Policy
) -> None:
    dies(state, target, lambda actuator: set_(actuator, target, 16, trial=True))
    restore(journal, keep, root=target.root)
    assert KNOB.read(target) == 128


def test_without_keep_all_goes_back(target: Target, state: Path, journal: Journal) -> None:
    dies(state, target, lambda actuator: set_(actuator, target, 16, parked=True))
    restore(journal, Policy(), root=target.root)
    assert KNOB.read(target) == 128
