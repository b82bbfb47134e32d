# SPDX-License-Identifier: Apache-2.0
"""Images that guests boot from: kernels, the root file system, and the project as it is now."""

from __future__ import annotations

import compileall
import functools
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vm import arm64

__all__ = ["KERNELS", "Kernel", "find_kernel", "make_project", "missing", "root_image"]

KERNELS = ("6.1", "6.12", "newest")
_ROOT = Path(__file__).resolve().parents[2]
_NEEDED = ("qemu-system-x86_64", "qemu-img", "setpriv", "mke2fs")


@dataclass(frozen=True)
class Kernel:
    """One kernel: the name by which tests choose it, its release, image and modules."""

    name: str
    release: str
    image: Path
    folder: Path

    def has(self, module: str) -> bool:
        """Return whether it has a module, or what would be one built in."""
        name = module.replace("-", "_")
        folder = self.folder / "modules" / self.release
        built = (folder / "modules.builtin").read_text().split()
        files = [*map(Path, built), *folder.rglob("*.ko*")]
        return any(file.name.partition(".")[0].replace("-", "_") == name for file in files)

    def config(self, option: str) -> str:
        """Return an option of its configuration, such as "BPF_LSM": "y", "m" or ""."""
        for line in (self.folder / "config").read_text().splitlines():
            if line.startswith(f"CONFIG_{option}="):
                return line.partition("=")[2].strip('"')
        return ""


def cache() -> Path:
    """The folder that tools/guests.sh fills."""
    return Path(os.environ.get("KMIND_GUESTS", _ROOT / ".cache/guests"))


def missing(kernel: str = "") -> str:
    """Return the reason why no guest, or none with that kernel, can be started; "" if one can.

    "arm64" is a guest of its own: see `vm.arm64`.
    """
    if kernel == "arm64":
        return arm64.missing()
    for program in _NEEDED:
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"{program} is not installed: make vm-test"
    reason = cache() / "reason"
    told = f": {reason.read_text().strip()}" if reason.exists() else ""
    if not list(cache().glob("root-*.img")):
        return f"tools/guests.sh has made no root file system{told}"
    for name in [kernel] if kernel else KERNELS:
        absent = cache() / f"kernels/{name}.absent"
        if absent.exists():
            return absent.read_text().strip()
        if not (cache() / f"kernels/{name}/version").exists():
            return f"tools/guests.sh has fetched no kernel {name}{told}"
    return ""


def find_kernel(name: str) -> Kernel:
    """Return a kernel by its name in KERNELS; LookupError with the reason if it is not here."""
    folder = cache() / "kernels" / name
    if reason := missing(name):
        raise LookupError(reason)
    return Kernel(name, (folder / "release").read_text().strip(), folder / "vmlinuz", folder)


def root_image() -> Path:
    """The newest image of the root file system; guests write to a layer above it."""
    return max(cache().glob("root-*.img"), key=lambda path: path.stat().st_mtime)


@functools.cache
def make_project() -> Path:
    """The image, removed with this process, that is /kmind there: src/ from the wheel, tests/."""
    folder = tempfile.TemporaryDirectory(prefix="kmind-project-")
    _keep.append(folder)
    work = Path(folder.name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(work)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True)
    (wheel,) = work.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(work / "all/src")
    tests = shutil.ignore_patterns("__pycache__", "*.bpf.o")
    shutil.copytree(_ROOT / "tests", work / "all/tests", ignore=tests)
    shutil.copytree(_ROOT / "tests/vm/inside", work / "all/guest")
    shutil.copytree(_ROOT / "tools", work / "all/tools")
    for name in ("pyproject.toml", "hatch_build.py", "README.md"):
        shutil.copy(_ROOT / name, work / "all")
    # Compiled here, where it is quick; Python is the same one there.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(work / "all", quiet=2, workers=0, invalidation_mode=unchecked)
    image = work / "project.img"
    make = ["mke2fs", "-qF", "-t", "ext4", "-O", "^has_journal", "-d", str(work / "all")]
    subprocess.run([*make, image, "64M"], check=True, capture_output=True)
    return image


_keep: list[tempfile.TemporaryDirectory[str]] = []
