# SPDX-License-Identifier: Apache-2.0
"""A daemon under attack: the hostile module, and a neighbour whose figures must not move."""

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sample_module import MANIFEST, knob_file, make_module
from serve.real import Host

from kmind.cli.client import Client
from kmind.errors import KmindError

__all__ = ["Neighbour", "Reads", "accounts", "eventually", "hostile_module", "rows"]

PATIENCE_S = 40
ATTACKS = [
    *("scribble", "forge", "replay", "trespass", "forbidden", "flood", "fork", "memory"),
    *("stall", "burn", "reach", "deaf", "die", "sysctl"),
]
HOSTILE = Path(__file__).parent / "attacks/extension.py"
PARAMETERS = """\
[limits]
cpu_percent = 20
memory_mib = 64
pids = 4

[[parameter]]
name = "attack"
type = "enum"
choices = {attacks}
help = "what to do"

[[parameter]]
name = "target"
type = "int"
default = 0
help = "whom to attack"

[[parameter]]
name = "at"
type = "float"
default = 0.0
help = "when"
"""


def eventually(what: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Return a call's result once it is true; fail if it never is."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
    return found


def hostile_module(folder: Path, knob: str = "", kind: str = "block") -> str:
    """Write it below ``folder``, as root's; what ``load`` takes.

    It wants ``knob``, or the sample's, and works on a target of that kind.
    """
    source = HOSTILE.read_text()
    head, _, tail = MANIFEST.replace('"sample"', '"hostile"').partition("[[parameter]]")
    _, _, tail = tail.partition("[[knob]]")
    words = PARAMETERS.format(attacks=ATTACKS)
    manifest = f"{head}{words}\n[[knob]]{tail}".replace(":Sample", ":Hostile")
    if knob:
        manifest = manifest.replace("block.read_ahead_kb", knob)
        manifest = manifest.replace('kind = "block"', f'kind = "{kind}"', 1)
    return str(make_module(folder, source, manifest))


def accounts(host: Host, name: str) -> dict[str, str]:
    """Return the kernel's counts of an instance, as ``cat`` shows them."""
    lines = host.cat(f"/sys/fs/bpf/kmind/instances/{name}").splitlines()
    return dict(line.split(None, 1) for line in lines)


def rows(host: Host) -> dict[str, dict[str, str]]:
    """Return the rows that ``cat`` shows of all instances, by name."""
    head, *lines = host.cat("/sys/fs/bpf/kmind/stats").splitlines()
    found = [dict(zip(head.split(), line.split(), strict=True)) for line in lines]
    return {row["name"]: row for row in found}


class Reads:
    """Reads of a disk that no cache serves, one request each, until the end of the block."""

    def __init__(self, disk: str, every_s: float = 0.01) -> None:
        self.count = 0
        self._disk = disk
        self._every_s = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Reads":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _read(self) -> None:
        fd = os.open(f"/dev/{self._disk}", os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as page:
            while not self._done.wait(self._every_s):
                os.preadv(fd, [page], 4096 * (self.count % 1000))
                self.count += 1
        os.close(fd)


class Neighbour:
    """A built-in module that holds a knob of another disk, and counts that disk's requests."""

    VALUE = 1024

    def __init__(self, host: Host, disk: str) -> None:
        self.host, self.disk, self.name = host, disk, f"static@{disk}"
        host.kmind("load", "static", disk, f"value={self.VALUE}", "--mode=auto")
        self.issued = self.seen = 0
        self.strange: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        # Its first window moves only with the disk.
        with Reads(disk) as reads:
            eventually(lambda: int(knob_file(disk).read_text()) == self.VALUE and self.seen)
        self._all_seen(reads.count)
        self.pid = host.instance(self.name)["extension"]["pid"]
        self.first = accounts(host, self.name)

    def _follow(self) -> None:
        client = Client(self.host.client.path)
        with suppress(KmindError, OSError):
            for event in client.follow(instance=self.name):
                if event["event"] == "window":
                    self.seen += event["features"]["requests"]
                elif event["event"] in ("mode", "stop", "undone", "yielded", "failed", "lost"):
                    self.strange.append(event)

    def _all_seen(self, count: int) -> None:
        # Up to one in a thousand completions the kernel shows to no program: see test_daemon_kill.
        self.issued += count
        with suppress(AssertionError):
            eventually(lambda: self.seen >= self.issued, 5)
        assert 0 <= self.issued - self.seen <= 1 + count // 1000, (self.issued, self.seen)
        self.issued = self.seen

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Keep its disk busy for the length of the block; then all must be as if nobody was."""
        with Reads(self.disk) as reads:
            try:
                yield
            except BaseException:
                self.issued += reads.count  # so that what failed is not counted against the next
                raise
        assert reads.count
        self._all_seen(reads.count)
        now = accounts(self.host, self.name)
        assert self.strange == [], self.strange
        assert int(knob_file(self.disk).read_text()) == self.VALUE
        same = {
            "mode", "pid", "uid", "slot", "generation", "held", "dropped", "bad_tail",
            "actions_lost", "applied", "undone",
        } | {key for key in now if key.startswith("verdict_")} - {"verdict_renewed"}  # fmt: skip
        assert {key: now[key] for key in same} == {key: self.first[key] for key in same}
        for rising in ("ticks", "windows", "hook_runs"):
            assert int(now[rising]) > int(self.first[rising]), rising
        assert self.host.instance(self.name)["extension"]["pid"] == self.pid
