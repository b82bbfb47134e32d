# SPDX-License-Identifier: Apache-2.0
"""Grants of an instance for each knob."""

from pathlib import Path

from guard.policies import load as load_policy

from kmind.extension import find_module
from kmind.guard import Policy
from kmind.runtime.holds.grants import grants_for, shown
from kmind.workloads.simulated_disk import make_disk_files

MODULE = find_module("readahead")
NAME = "block.read_ahead_kb"


def test_bounds_are_the_policys_and_the_baseline_is_what_stands(tmp_path: Path) -> None:
    target = make_disk_files(tmp_path, read_ahead_kb=256)
    policy = load_policy(tmp_path, f'[knob."{NAME}"]\nmin = 64\nmax = 512\n')
    (each,), refused = grants_for(MODULE, target, policy, {})
    assert refused == {}
    assert (each.baseline, each.grant().current) == (256, 256)
    assert (each.grant().minimum, each.grant().maximum) == (64, 512)
    assert (each.info().minimum, each.info().maximum, each.info().baseline) == (64, 512, 256)
    assert each.withdrawn(256).minimum > each.withdrawn(256).maximum


def test_a_knob_that_is_forbidden_is_not_granted_and_it_is_said_why(tmp_path: Path) -> None:
    target = make_disk_files(tmp_path)
    policy = load_policy(tmp_path, f'forbidden = ["{NAME}"]\n')
    granted, refused = grants_for(MODULE, target, policy, {})
    assert granted == []
    assert refused == {NAME: "the policy forbids it"}


def test_values_are_shown_as_an_admin_reads_them(tmp_path: Path) -> None:
    (each,), _ = grants_for(MODULE, make_disk_files(tmp_path), Policy(), {})
    assert shown(each, 64) == 64
    assert shown(None, 3) == 3
