# SPDX-License-Identifier: Apache-2.0
"""A guest of another architecture: Debian's arm64 kernel, emulated with two CPUs.

``tools/guest_arm64.sh`` makes what it boots from. An x86 that emulates keeps more orders than an
arm64 promises (it may only let a load pass an earlier store), so what holds here is no proof.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from agents import BARE, compile_bpf

__all__ = ["missing", "run_on_arm64"]

_ROOT = Path(__file__).resolve().parents[2]
_QEMU = "qemu-system-aarch64"
_MARK = "KMIND-GUEST "


def _made() -> Path:
    return Path(os.environ.get("KMIND_GUESTS", _ROOT / ".cache/guests")) / "arm64/made"


def missing() -> str:
    """Return the reason why it cannot be started here; "" if it can."""
    for program in (_QEMU, "mke2fs"):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"{program} is not installed: make vm-test"
    reason = _made().with_name("reason")
    if not (_made() / "version").exists():
        told = f": {reason.read_text().strip()}" if reason.exists() else ""
        return f"tools/guest_arm64.sh has made no arm64 guest{told}"
    return ""


def run_on_arm64(folder: Path, script: Path, *, seconds: float = 600) -> dict[str, Any]:
    """Boot with ``script`` as first process; what it printed behind the mark.

    kmind's wheel for arm64 is at ``/kmind/src``, the agent of bare.bpf.c at ``/kmind``. Raises
    AssertionError with the console's last lines if it printed nothing, or took too long.
    """
    image = _make_image(folder, script)
    command = [
        _QEMU, "-M", "virt", "-cpu", "max,pauth-impdef=on", "-accel", "tcg,thread=multi",
        "-smp", "2", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none",
        "-kernel", str(_made() / "vmlinuz"), "-drive", f"file={image},if=none,id=root,format=raw",
        "-device", "nvme,drive=root,serial=root",
        "-append", "console=ttyAMA0 root=/dev/nvme0n1 rw init=/init quiet panic=-1",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=seconds,
        )  # fmt: skip
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    text = said.decode(errors="replace")
    results = re.findall(rf"^{_MARK}(.*?)\r?$", text, re.MULTILINE)
    assert results, f"the guest said:\n{text[-6000:]}"
    found: dict[str, Any] = json.loads(results[-1])
    return found


def _make_image(folder: Path, script: Path) -> Path:
    root, image = folder / "root", folder / "root.img"
    subprocess.run(["cp", "-a", _made() / "root", root], check=True)
    shutil.copy(script, root / "init")
    (root / "init").chmod(0o755)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    environment = os.environ | {"KMIND_BUILD_ARCH": "aarch64"}
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True, env=environment)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(root / "kmind/src")
    arm64 = ("-U__TARGET_ARCH_x86", "-D__TARGET_ARCH_arm64")
    compile_bpf(BARE, root / "kmind/bare.bpf.o", *arm64)
    make = ["mke2fs", "-qF", "-t", "ext4", "-d", root, image, "600M"]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    subprocess.run(make, check=True, capture_output=True, env=os.environ | {"PATH": path})
    shutil.rmtree(root)
    return image
