# SPDX-License-Identifier: Apache-2.0
"""Numbers that a command prints."""

import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runtime.objective.asked import SYSTEM, gap, never

from kmind.runtime.objective.sources import Objective, parse_objective


@pytest.fixture
def script() -> Iterator[Callable[[str], Objective]]:
    def make(text: str, *, timeout_s: float = 10.0) -> Objective:
        path = Path(place) / "measure"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return parse_objective(f"command:/bin/sh {path} one 'a b'", SYSTEM, timeout_s=timeout_s)

    # pytest's own folder is closed to the one whom the command runs as.
    with tempfile.TemporaryDirectory(prefix="kmind-test-") as place:
        Path(place).chmod(0o755)
        yield make


Script = Callable[..., Objective]


def test_a_command_prints_a_number(script: Script) -> None:
    assert script('[ "$1/$2/$#" = "one/a b/2" ] && echo " 12.5 "').ask(never) == 12.5
    assert script("echo 3e2").ask(never) == 300
    assert script("echo 0").ask(never) == 0
    assert script("echo -0.0").ask(never) == 0


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("true", "empty", "it printed nothing"),
        ("echo", "empty", "it printed nothing"),
        ("echo fast", "text", "this is not a number: 'fast'"),
        ("echo 1 2", "text", "this is not a number"),
        ("echo 1; echo 2", "text", "this is not a number"),
        ("echo -70", "range", "'-70': an objective is compared by ratio and cannot be negative"),
        ("echo 1_000", "text", "this is not a number"),
        ("echo nan", "range", "not a finite number"),
        ("echo inf", "range", "not a finite number"),
        ("echo 5; exit 3", "failed", "it ended with status 3"),
        ("kill -9 $$", "failed", "it was killed by signal 9"),
        ("exec yes", "text", "it printed more than 4096 bytes"),
        ("printf '\\377\\033[2J'", "text", "this is not a number"),
    ],
)
def test_a_command_that_prints_no_number_is_a_gap(
    script: Script, text: str, kind: str, why: str
) -> None:
    found = gap(script(text))
    assert found[0] == kind
    assert why in found[1]
    assert found[1].isprintable()


@pytest.mark.fault
@pytest.mark.parametrize("text", ["sleep 600", "sleep 600 &", "exec >&-; sleep 600"])
def test_a_command_that_hangs_is_killed_with_all_of_its_group(script: Script, text: str) -> None:
    assert gap(script(text, timeout_s=0.3)) == ("timeout", "it did not end within 0.3 s")


def test_a_command_is_killed_from_another_thread(script: Script) -> None:
    objective = script("sleep 600 & echo; sleep 600", timeout_s=600)
    found = []
    thread = threading.Thread(target=lambda: found.append(gap(objective)))
    thread.start()
    until = time.monotonic() + 30
    while not (children := Path(f"/proc/self/task/{thread.native_id}/children").read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    # Between its start and the moment that its number is known, only the flag ends it.
    while thread.is_alive() and time.monotonic() < until:
        objective.cancel()
        thread.join(0.05)
    assert not thread.is_alive()
    assert found[0][1] == "it was killed by signal 9"
    assert not Path(f"/proc/{children.split()[0]}").exists()


def test_a_command_is_not_waited_for_at_the_end(script: Script) -> None:
    assert gap(script("sleep 600", timeout_s=600), lambda: True)[0] == "timeout"


@pytest.mark.kernel
def test_a_command_has_no_privileges(script: Script) -> None:
    if os.getuid():
        pytest.skip("needs root")
    assert script("id -u").ask(never) == 65534
    assert script("id -G | wc -w").ask(never) == 1
    caps = "grep -c 'CapEff:.*0000000000000000' /proc/self/status"
    assert script(caps).ask(never) == 1
    assert script("env | wc -l").ask(never) <= 5
    # Three, the script, and the folder itself; no pipe, whose ends the shell holds for a moment.
    assert script("set -- /proc/$$/fd/*; echo $#").ask(never) <= 5
