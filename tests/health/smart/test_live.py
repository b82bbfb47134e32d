# SPDX-License-Identifier: Apache-2.0
"""smartctl that is missing, hangs, is killed, floods or is too old: fakes in a folder of the test.

Each fake is a program that this interpreter runs; the disks that they speak of are none.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from health.smart.samples import asleep, ata

from kmind.errors import NotSupportedError, UsageError
from kmind.health.smart.document import SmartError
from kmind.health.smart.live import SmartReader

Fake = Callable[[str], Path]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Return a maker of programs from lines of Python, which know their ``folder``."""

    def make(code: str) -> Path:
        path = tmp_path / "smartctl"
        head = f"#!{sys.executable} -S\nimport os, sys, time, json\nfolder = {str(tmp_path)!r}\n"
        path.write_text(head + code)
        path.chmod(0o755)
        return path

    return make


def saying(document: dict[str, object]) -> str:
    return f"print({json.dumps(document)!r})\n"


def gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_reads_and_never_wakes(fake: Fake, tmp_path: Path) -> None:
    note = "open(folder + '/words', 'w').write(json.dumps(sys.argv[1:]))\n"
    program = fake(note + saying(ata()) + "sys.exit(64)\n")
    record = SmartReader(program).read("/dev/sda", "sat+megaraid,1")
    assert record.credible("hours") == 1000
    words = json.loads((tmp_path / "words").read_text())
    assert {"--json", "--nocheck=standby", "--device=sat+megaraid,1"} <= set(words)
    assert words[-1] == "/dev/sda"
    writing = ("-t", "--test", "-s", "--smart", "-o", "-S", "--set", "-X", "--abort")
    assert not [word for word in words if word.partition("=")[0] in writing]


def test_sleeping_disk_is_asleep(fake: Fake) -> None:
    assert SmartReader(fake(saying(asleep()) + "sys.exit(2)\n")).read("/dev/sda").asleep


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"there is no smartctl .*smartmontools"):
        SmartReader(tmp_path / "smartctl").read("/dev/sda")


def test_program_of_another_machine(tmp_path: Path) -> None:
    program = tmp_path / "smartctl"
    program.write_bytes(b"\x7fELF of nothing")
    program.chmod(0o755)
    with pytest.raises(SmartError, match="cannot be started"):
        SmartReader(program).read("/dev/sda")


@pytest.mark.parametrize(
    "code",
    [
        "time.sleep(600)\n",
        "print('{', flush=True)\ntime.sleep(600)\n",
        "os.close(1)\ntime.sleep(600)\n",
        # Slow, but never silent.
        "while True: print(' ', flush=True); time.sleep(0.05)\n",
    ],
    ids=["silent", "begun", "closed", "slow"],
)
def test_hanging_is_ended_in_time(fake: Fake, tmp_path: Path, code: str) -> None:
    program = fake("open(folder + '/pid', 'w').write(str(os.getpid()))\n" + code)
    start = time.monotonic()
    with pytest.raises(SmartError, match=r"/dev/sda was not read: smartctl took longer than 1 s"):
        SmartReader(program, limit_s=1).read("/dev/sda")
    assert time.monotonic() - start < 30
    pid = tmp_path / "pid"
    assert not pid.exists() or gone(int(pid.read_text() or 0))


def test_what_it_has_started_ends_with_it(fake: Fake, tmp_path: Path) -> None:
    program = fake(
        "pid = os.fork()\n"
        "if pid == 0: time.sleep(600)\n"
        "open(folder + '/pid', 'w').write(str(pid))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(SmartError, match="took longer"):
        SmartReader(program, limit_s=2).read("/dev/sda")
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(child)


def test_flood_is_ended(fake: Fake) -> None:
    program = fake("while True: os.write(1, b' ' * 65536)\n")
    with pytest.raises(SmartError, match="wrote over 4194304 bytes"):
        SmartReader(program, limit_s=60).read("/dev/sda")


def test_killed(fake: Fake) -> None:
    with pytest.raises(SmartError, match="was ended by signal 9"):
        SmartReader(fake(saying(ata()) + "sys.stdout.flush()\nos.kill(os.getpid(), 9)\n")).read(
            "/dev/sda"
        )


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("print('smartctl 6.6 2017-11-05 r4594')\nsys.exit(1)\n", "smartctl 6.6 is too old; 7.0"),
        ("sys.exit(127)\n", r"\(exit status 127\) is empty"),
        ("print('{\"smartctl\": ')\n", "is not JSON, or is cut off"),
        ("print('[]')\n", "is a JSON list"),
        ("os.write(1, bytes(range(256)))\n", "is not JSON"),
    ],
)
def test_other_words_are_one_line(fake: Fake, code: str, says: str) -> None:
    with pytest.raises(SmartError, match=says) as error:
        SmartReader(fake(code)).read("/dev/sda")
    assert str(error.value).startswith("/dev/sda was not read")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("device", "type"),
    [
        ("sda", ""),
        ("--test=long", ""),
        ("/dev/../etc/passwd", ""),
        ("/dev/sda\n", ""),
        ("/dev/", ""),
        ("/dev/sda", "sat --test=long"),
        ("/dev/sda", "sat\n"),
    ],
)
def test_words_that_are_no_device_reach_no_program(fake: Fake, device: str, type: str) -> None:
    with pytest.raises(UsageError):
        SmartReader(fake("open(folder + '/run', 'w')\n")).read(device, type)


def test_one_at_a_time(fake: Fake, tmp_path: Path) -> None:
    program = fake(
        "os.mkdir(folder + '/busy')\n"  # fails if another is at it
        "time.sleep(0.1)\n"
        "os.rmdir(folder + '/busy')\n" + saying(ata())
    )
    reader = SmartReader(program)
    read: list[str] = []
    threads = [
        threading.Thread(target=lambda: read.append(reader.read("/dev/sda").serial))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == ["WD-1"] * 4


def test_no_descriptor_is_left(fake: Fake) -> None:
    reader = SmartReader(fake(saying(ata())), limit_s=60)
    reader.read("/dev/sda")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        reader.read("/dev/sda")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
