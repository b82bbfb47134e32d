# SPDX-License-Identifier: Apache-2.0
"""The walk-through of docs/daemon.md, command by command, on a daemon and a disk of its own.

What the page shows has to come out here: each of its lines, in that order, the knob's
values to the letter, other numbers as numbers, and anything where it has "…".
"""

import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kmind.testing.daemon import DaemonHost

pytestmark = [
    pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap"),
    pytest.mark.slow,
]

PAGE = Path(__file__).parent.parent / "docs" / "daemon.md"
FOLDER, DISK = "/srv/walk", "loop0"
# What the knob is set to, and has to be set to.
VALUES = {"16", "1024", "2048", "4096", "16384"}
# These change nothing, and are asked again until they show what they are to show.
LOOKING = ("cat ", "grep ", "kmind list", "kmind status", "kmind advice list", "kmind why")
PATIENCE_S = 60


@dataclass
class Step:
    """A command, and the lines that it prints."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps() -> list[Step]:
    """Return the steps of the page's console blocks; a command goes on in lines with ``> ``."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("# "):
                found.append(Step(line[2:]))
            elif line.startswith("> "):
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].shown.append(line)
    return found


def pattern(line: str) -> str:
    """Return the regular expression for a line of the page."""

    def word(found: re.Match[str]) -> str:
        text = found[0]
        if text == "…":
            return ".*"
        if text.isspace():
            return r"\s+"
        if re.fullmatch(r"\d[\d.,]*", text) and text.rstrip(".,") not in VALUES:
            return r"[\d.,]+"
        return re.escape(text)

    return re.sub(r"…|\s+|(?:(?<![\w@])|(?<= x))\d[\d.,]*(?!\w)|[^\s…]", word, line.rstrip())


def missing(shown: list[str], output: str) -> str | None:
    """The first line of the page that does not stand in the output, in that order, if any."""
    lines = iter(output.splitlines())
    for line in shown:
        if line != "…" and not any(re.fullmatch(pattern(line), each.rstrip()) for each in lines):
            return line
    return None


class Walk:
    """Runs the commands in the host's mount namespace; ``names`` stand in for the page's."""

    def __init__(self, host: DaemonHost) -> None:
        self.host = host
        self.names = {
            FOLDER: str(host.folder),
            "/run/kmind": str(host.folder / "run"),
            "/var/lib/kmind": str(host.folder / "state"),
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def take(self, step: Step) -> str:
        """Run one, and see that it shows what it is to show; its output."""
        command = self.here(step.command)
        if command.endswith(" &"):
            self.begin(command.removesuffix(" &"))
            return ""
        until = time.monotonic() + PATIENCE_S
        while True:
            output = self.run(command)
            if command.startswith("losetup "):
                self.names[DISK] = Path(output.strip()).name
            lacking = missing([self.here(line) for line in step.shown], output)
            if lacking is None:
                return output
            again = command.startswith(LOOKING) and time.monotonic() < until
            assert again, f"{command}\nshows no line as\n{lacking}\nbut\n{output}"
            time.sleep(0.2)

    def run(self, command: str) -> str:
        """Return a command's output.

        It has to succeed; a command that only looks may be repeated.
        """
        done = subprocess.run(
            self._shell(command), env=self.host.environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if not command.startswith(LOOKING):
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, command: str) -> None:
        """Run it beside the others."""
        if command.startswith("kmind daemon "):
            self.host.start(*command.split()[2:])
        else:
            shell = self._shell(f"exec {command}")
            self.running.append(subprocess.Popen(shell, env=self.host.environment))

    def here(self, text: str) -> str:
        """A text of the page as it reads on this machine."""
        for name, ours in self.names.items():
            text = text.replace(name, ours)
        return text

    def end(self) -> None:
        """End what runs beside, and give back the disk."""
        for process in self.running:
            process.kill()
            process.wait()

    def _shell(self, command: str) -> list[str]:
        # The words of a kmind command go on after the shell's own, so $0 is the interpreter.
        start = f'cd {self.host.folder} || exit\nkmind() {{ "$0" -m kmind "$@"; }}\n'
        return self.host.command(under=("sh", "-c", start + command))


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    try:
        with DaemonHost.open(tmp_path) as host:
            made = Walk(host)
            try:
                yield made
            finally:
                made.end()
    finally:
        shown = subprocess.run(
            ["losetup", "-n", "-O", "NAME", "-j", tmp_path / "disk"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for node in shown.stdout.split():
            subprocess.run(["losetup", "--detach", node], check=True)


def test_the_page_shows_what_happens(walk: Walk) -> None:
    """Every command succeeds and prints what the page says; in the end nothing is left."""
    shown = [(step.command, walk.take(step)) for step in steps()]
    commands = [command for command, _ in shown]
    for needed in ("kmind load", "kmind daemon --replace", "kmind reload", "kmind unload"):
        assert any(command.startswith(needed) for command in commands), needed
    # A hot restart: the same extension, and counters that go on.
    before, after = (dict(map(str.split, text.splitlines())) for c, text in shown if "pid|" in c)
    assert before["pid"] == after["pid"]
    assert int(before["hook_runs"]) < int(after["hook_runs"])
    log = walk.host.cat("/var/log/kmind/kmind.log")
    for event in ("start", "verdict", "applied", "yielded", "undone", "stop"):
        assert f'"event": "{event}"' in log, event
    assert not walk.host.exists("/sys/fs/bpf/kmind")


def test_a_line_of_the_page_is_compared() -> None:
    """The comparison can fail: in a word, in one of the knob's values, and in the order."""
    assert missing(["held 16 by pid 7, …"], "held 16 by pid 1234, and more\n") is None
    assert missing(["held 16 by pid 7"], "held 64 by pid 7\n")
    assert missing(["held 16"], "kept 16\n")
    assert missing(["b", "a"], "a\nb\n") == "a"
    assert missing(["a  b", "…", "d"], "a b\nc\nd\n") is None
