# SPDX-License-Identifier: Apache-2.0
"""Clean systems for tests: the reason where there are none, and no trace of one that was killed."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from programs import machine_lacks, program

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_machine_that_cannot_skips_with_a_reason_and_fails_under_ci(
    tmp_path: Path, ci: str, code: int
) -> None:
    bash = shutil.which("bash")
    assert bash
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "")
    done = subprocess.run(
        [bash, TOOLS / "clean.sh"],
        env={"PATH": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("clean: skipped, for "), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with three programs."""
    made = tmp_path / "root"
    for name in ("dev", "sys", "proc", "run"):
        made.joinpath(name).mkdir(parents=True)
    for name in ("env", "sh", "sleep"):
        tool = Path(program(name)).resolve()
        listed = subprocess.run(
            [program("ldd"), tool], capture_output=True, text=True, check=True
        ).stdout
        needed = [word for word in listed.split() if word.startswith("/")]
        for source, place in [(tool, f"bin/{name}"), *((Path(each), each) for each in needed)]:
            target = made / place.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return made


def inside(root: Path) -> list[int]:
    """The processes whose root is that folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "root").readlink() == root:
                found.append(int(process.name))
    return found


@pytest.mark.fault
@pytest.mark.needs("ldd", "sh", "sleep", "setpriv", "unshare", "mount")
def test_what_is_killed_leaves_neither_mounts_nor_processes(root: Path) -> None:
    if os.geteuid() != 0:
        machine_lacks("needs root")
    mounts = Path("/proc/self/mountinfo").read_text()
    script = f'"{TOOLS}/in_root.sh" "{root}" sh -c ">/ready; sleep 600"; true'
    process = subprocess.Popen(["sh", "-c", script])
    try:
        while not (root / "ready").exists():
            assert process.poll() is None
            time.sleep(0.01)
        assert inside(root)
        assert Path("/proc/self/mountinfo").read_text() == mounts
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while inside(root):
        assert time.monotonic() < deadline, inside(root)
        time.sleep(0.01)
    assert Path("/proc/self/mountinfo").read_text() == mounts
