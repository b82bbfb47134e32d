# SPDX-License-Identifier: Apache-2.0
"""The commands that talk to a daemon, each as a user would type it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serve.conftest import serve
from serve.memory import DISK

if TYPE_CHECKING:
    from conftest import Cli
    from serve.conftest import Served

NAME = f"readahead@{DISK}"
ALONE = (
    ("list",), ("status",), ("status", NAME), ("load", "readahead", DISK), ("unload", NAME),
    ("reload", NAME), ("mode", NAME, "auto"), ("advice",), ("advice", "apply", "1"),
)  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path, cli: "Cli") -> Iterator["Served"]:
    """A daemon, where ``cli`` looks for one."""
    cli.environment["KMIND_RUN_DIR"] = str(tmp_path)
    with serve(tmp_path) as served:
        yield served


@pytest.mark.parametrize("words", ALONE, ids=" ".join)
def test_without_a_daemon(cli: "Cli", tmp_path: Path, words: tuple[str, ...]) -> None:
    cli.environment["KMIND_RUN_DIR"] = str(tmp_path)
    done = cli(*words)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("kmind: the daemon is not running: nobody listens at ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a daemon is root's")
def test_nothing_to_replace(cli: "Cli", tmp_path: Path) -> None:
    cli.environment["KMIND_RUN_DIR"] = str(tmp_path)
    done = cli("daemon", "--replace")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == ("kmind: there is no daemon to restart; start one with: kmind daemon\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as only root may")
def test_a_user_who_may_not(cli: "Cli", daemon: "Served") -> None:
    daemon.path.chmod(0o600)
    done = cli("list", f"--socket={daemon.path}", root=False)
    assert done.returncode == 77, done.stderr
    assert "only root and members of the group kmind may connect" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as only root may")
def test_a_daemon_needs_root(cli: "Cli") -> None:
    done = cli("daemon", root=False)
    assert done.returncode == 77, done.stderr
    assert done.stderr.count("\n") == 1


def test_a_daemon_without_its_libraries(cli: "Cli") -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; "
        "from kmind.cli.main import main; sys.exit(main(['daemon']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cli.environment, capture_output=True, text=True
    )
    assert done.returncode == 4
    assert done.stderr == (
        "kmind: the daemon needs starlette, which is not installed; "
        "install it with: pip install 'kmind[daemon]'\n"
    )


def test_from_load_to_unload(cli: "Cli", daemon: "Served") -> None:
    assert cli("list").stdout == "No instances are loaded.\n"
    dry = cli("load", "readahead", DISK, "patience=5", "--mode=auto", "-n")
    assert dry.stdout == f"would load {NAME}, mode auto\n"
    assert cli("list").stdout == "No instances are loaded.\n"
    done = cli("load", "readahead", DISK, "patience=5", "--mode=auto")
    assert done.stdout == f"loaded {NAME}, mode auto; to undo: kmind unload {NAME}\n"
    head, row = (line.split() for line in cli("list").stdout.splitlines())
    assert head == ["instance", "mode", "state", "changed", "cost", "doing"]
    assert row == [NAME, "auto", "running", "-", "-", "-"]
    done = cli("mode", NAME, "observe")
    assert done.stdout == f"{NAME}: mode auto -> observe; to undo: kmind mode {NAME} auto\n"
    assert "generation 2 runs" in cli("reload", NAME).stdout
    status = cli("status")
    assert status.returncode == 0
    assert status.stdout.startswith("daemon: well, pid ")
    assert f"{NAME}: tuner, mode observe, running\n" in status.stdout
    assert " patience=5.0 " in status.stdout
    assert "        patience: 5.0\n" in cli("status", "-v").stdout
    assert "daemon" not in cli("status", NAME).stdout
    assert cli("unload", NAME).stdout == f"unloaded {NAME}; nothing was changed\n"
    assert cli("status").stdout.splitlines()[1:] == [
        "room: 0 of 2048 leases",
        "No instances are loaded.",
    ]


def test_json(cli: "Cli", daemon: "Served") -> None:
    def ask(*words: str) -> dict[str, object]:
        done = cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        answer: dict[str, object] = json.loads(done.stdout)
        assert next(iter(answer)) == "schema"
        return answer

    daemon.do(daemon.supervisor.advise)
    assert ask("load", "readahead", DISK)["schema"] == "kmind.change/1"
    assert ask("mode", NAME, "auto")["result"]["before"] == "advise"  # type: ignore[index]
    listed = ask("list")
    assert listed["schema"] == "kmind.instances/1"
    assert ask("status")["daemon"]["ok"] is True  # type: ignore[index]
    assert ask("reload", NAME)["schema"] == "kmind.change/1"
    assert ask("advice", "list")["schema"] == "kmind.advice/1"
    assert ask("advice", "show", "1")["advice"] == ask("advice")["advice"]
    assert ask("unload", NAME)["result"]["restored"] is True  # type: ignore[index]


def test_advice(cli: "Cli", daemon: "Served") -> None:
    assert cli("advice").stdout == "There is no advice.\n"
    daemon.do(daemon.supervisor.advise)
    daemon.do(lambda: daemon.supervisor.advise(256))
    head, newest, oldest = cli("advice", "list").stdout.splitlines()
    assert head.split() == ["id", "instance", "change", "state", "reason"]
    assert newest.split()[0] == "2"
    assert "block.read_ahead_kb 128 -> 512" in oldest
    shown = cli("advice", "show", "1").stdout
    for words in (
        "why: Reads are at random.",
        "evidence: gain = 1.5",
        "predicted effect: 1.5",
        "expires in ",
        "by hand: echo 512 > /sys/block/vda/queue/read_ahead_kb",
    ):
        assert words in shown
    done = cli("advice", "apply", "1")
    assert done.stdout == (
        "applied 1: block.read_ahead_kb 128 -> 512; to undo: kmind advice undo 1\n"
    )
    assert cli("advice", "undo", "1").stdout.startswith("undone 1")
    assert cli("advice", "reject", "2").stdout.startswith("rejected 2")
    assert cli("advice").stdout == "There is no advice.\n"
    assert len(cli("advice", "--all").stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("load", "readahed", DISK), 2, "did you mean 'readahead'?"),
        (
            ("load", "readahead"),
            2,
            "readahead needs a target: a block device; for example: kmind load readahead vda",
        ),
        (("load", "autotune"), 2, "a cgroup, or system; for example: kmind load autotune system"),
        (("load", "readahead", "nosuch"), 2, "unknown block device"),
        (("load", "readahead", DISK, "vdb"), 2, "'vdb' is not a parameter"),
        (("load", "readahead", DISK, "patience=1", "patience=2"), 2, "given twice"),
        (("load", "readahead", DISK, "patience=much"), 2, "patience"),
        (("load", "readahead", DISK, "patients=1"), 2, "has no parameter"),
        (("load", "readahead", DISK, "--mode=fast"), 2, "fast"),
        (("load", "./nosuch", DISK), 2, "nosuch"),
        (("unload", "nosuch@x"), 2, "there is no instance"),
        (("unload", "../../v1/health"), 2, "there is no instance"),
        (("status", "nosuch"), 2, "there is no instance"),
        (("mode", "nosuch", "auto"), 2, "there is no instance"),
        (("mode", "nosuch", "off"), 2, "off"),
        (("reload", "nosuch"), 2, "there is no instance"),
        (("advice", "show", "7"), 2, "there is no advice"),
        (("advice", "apply"), 2, "needs an id"),
        (("advice", "list", "7"), 2, "kmind advice show 7"),
        (("advice", "burn", "7"), 2, "burn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_words(
    cli: "Cli", daemon: "Served", words: tuple[str, ...], code: int, said: str
) -> None:
    done = cli(*words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_an_unload_that_does_not_restore(cli: "Cli", daemon: "Served") -> None:
    cli("load", "readahead", DISK)
    change = {
        "knob": "block.read_ahead_kb",
        "baseline": 128,
        "values": [512, 64],
        "yielded": False,
        "gone": False,
    }
    daemon.supervisor.requests.unload = lambda name, force=False: {  # type: ignore[method-assign]
        "changes": [change | {"now": 64}], "restored": False, "failed": "",
    }  # fmt: skip
    done = cli("unload", NAME)
    assert done.returncode == 1
    assert "block.read_ahead_kb was 128 -> 512 -> 64, holds 64 still; to put it back: kmind" in (
        done.stdout
    )
    daemon.supervisor.requests.unload = lambda name, force=False: {  # type: ignore[method-assign]
        "changes": [change | {"now": 128}], "restored": True, "failed": "",
    }  # fmt: skip
    done = cli("unload", NAME)
    assert done.returncode == 0
    assert done.stdout.endswith("holds 128 again\n")
