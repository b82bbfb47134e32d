# SPDX-License-Identifier: Apache-2.0
"""The folder of pins is root's alone: nobody makes it first, puts links there, or moves it away."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kmind.agent.core.core import Core
from kmind.errors import KmindError

pytestmark = pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall")

NOBODY = 65534


def owned(root: Path) -> None:
    root.mkdir(0o700)
    os.chown(root, NOBODY, 0)


def of_mode(mode: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        root.mkdir()
        root.chmod(mode)

    return make


def link(root: Path) -> None:
    aside = root.with_name(f"{root.name}-aside")
    aside.mkdir(0o700)
    root.symlink_to(aside)


def below(name: str, spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        root.mkdir(0o700)
        spoil(root / name)

    return make


def link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ROOTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "it is another's": (owned, "it belongs to user 65534, mode 0700, and must be of user 0"),
    "others can write to it": (of_mode(0o777), "mode 0777, and must be of user 0, mode 0700"),
    "others can read it": (of_mode(0o755), "mode 0755"),
    "it is a link": (link, "it is a link, or not a directory"),
    "agents are another's": (below("agents", owned), "agents: it belongs to user 65534"),
    "pins are a link": (below("core", link_to(Path("/etc"))), "core: it is a link, or no"),
    "the gate is a link": (below("gate", link_to(Path("/etc"))), "gate: it is a link, or no"),
}


@pytest.mark.parametrize("what", ROOTS)
def test_a_root_that_is_not_roots_alone_is_refused(root: Path, what: str) -> None:
    make, message = ROOTS[what]
    make(root)
    before = root.lstat()
    try:
        with pytest.raises(KmindError) as caught:
            Core.open(root)
    finally:
        if root.is_symlink():
            root.unlink()
            root.with_name(f"{root.name}-aside").rmdir()
    assert message in str(caught.value)
    assert "find out who made it" in str(caught.value)
    if root.exists():
        assert (root.lstat().st_uid, root.lstat().st_mode) == (before.st_uid, before.st_mode)


def test_what_is_made_is_roots_alone(root: Path) -> None:
    umask = os.umask(0)
    try:
        core = Core.open(root)
    finally:
        os.umask(umask)
    for folder in (root, *(root / name for name in ("core", "agents", "instances"))):
        status = folder.stat()
        assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o700)
    core.close()
    Core.open(root).remove()
    assert not root.exists()


def in_namespace(script: str) -> str:
    """Return the output of a shell with mounts of its own, and no bpf file system."""
    whole = f"set -e; mount --make-rprivate /; umount -l /sys/fs/bpf || true; {script}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", whole], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


OPEN = f"""{sys.executable} -c '
from kmind.agent.core.core import Core
from kmind.errors import KmindError
try:
    Core.open(mount=True).close()
except KmindError as error:
    print(error)
'"""
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"


def test_a_bpffs_that_kmind_mounts_is_roots_alone() -> None:
    said = in_namespace(f"{OPEN}; stat -f -c %T /sys/fs/bpf; stat -c %a:%u /sys/fs/bpf")
    assert said.split() == ["bpf_fs", "1700:0"], said  # sticky at any mode (bpf_fill_super)


def test_a_user_on_a_bpffs_that_is_open_to_all() -> None:
    """The user makes the folder first and is found out; what root makes stays where it is."""
    said = in_namespace(
        f"mount -t bpf bpf /sys/fs/bpf; {AS_NOBODY} mkdir -m 700 /sys/fs/bpf/kmind; {OPEN};"
        f"rmdir /sys/fs/bpf/kmind; {OPEN}; echo made;"
        f"{AS_NOBODY} mv /sys/fs/bpf/kmind /sys/fs/bpf/mine 2>&1 || stat -c %a:%u /sys/fs/bpf/kmind"
    )
    refused, rest = said.split("made\n")
    assert "/sys/fs/bpf/kmind: it belongs to user 65534" in refused
    assert refused.count("\n") == 1
    assert rest.endswith("700:0\n"), rest
