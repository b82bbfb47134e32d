# SPDX-License-Identifier: Apache-2.0
"""Version 2 of cgroups with its controllers: in a guest, where cgroup_script.py tries them."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest
from vm.guest import Guest

pytestmark = [pytest.mark.guest("6.12"), pytest.mark.slow]


@pytest.fixture(scope="module")
def found() -> Any:
    with Guest("6.12") as guest:
        return guest.call("vm.cgroup_script:main", seconds=400)


def test_one_that_eats_memory_is_killed(found: dict[str, Any]) -> None:
    missing, code, kills, peak, said = found["it_eats_memory"]
    assert missing == {}
    assert (code, kills) == (-signal.SIGKILL, 1)
    assert peak <= 32 << 20
    assert said == "memory: it took more than 32 MiB and was killed for it"


def test_one_that_forks_is_stopped(found: dict[str, Any]) -> None:
    made, pids, refused, said = found["it_forks"]
    assert (made, pids, refused) == (2, 3, 1)
    assert said == "pids: 1 times it tried to have more than 3 processes and threads"


def test_one_that_spins_is_throttled(found: dict[str, Any]) -> None:
    said, share, throttled = found["it_spins"]
    assert re.fullmatch(r"cpu: for \d+% of the last \d+ s it wanted more than 20% of a CPU", said)
    assert share == pytest.approx(0.2, abs=0.1)
    assert throttled > 20


def test_another_owner_takes_it_over(found: dict[str, Any]) -> None:
    *limits, listed, pids, left = found["it_is_taken_over"]
    assert limits == [20, 32, 3]
    assert (listed, pids, left) == (["trial@guest"], 1, [])


def test_knobs_of_a_cgroup_are_set(found: dict[str, Any]) -> None:
    assert found["knobs_of_a_cgroup"] == [[True, 100, 300], [True, 0, 1 << 20]]
