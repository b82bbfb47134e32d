# SPDX-License-Identifier: Apache-2.0
"""A guest with a kernel of its own, for what the kernel of this machine refuses.

It runs a Python script under qemu, emulated, from an initramfs that holds this very
interpreter, its libraries and kmind's sources; nothing of the machine is mounted in it.
The kernel is Debian's for clouds, or another with BPF LSM: the newest that is installed,
or the one of a package that was unpacked into the folder KMIND_GUEST.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["missing", "run_in_guest"]

_ROOT = Path(__file__).resolve().parents[2]
_QEMU = "qemu-system-x86_64"
_PACKAGES = ("numpy", "msgspec")
_NEEDED = ("CONFIG_BPF_LSM=y", "CONFIG_DEBUG_INFO_BTF=y", "CONFIG_BLK_DEV_RAM=m")
# The emulator (qemu 7.2 was seen to) loses flags over cmpxchg16b, and the kernel panics.
_NO_CX16 = "clearcpuid=141"
_MARK = "KMIND-GUEST "
_PYTHON = Path(sys.executable).resolve()
_INIT = f"""\
#!{_PYTHON} -B
import ctypes, json, os, sys, traceback
libc = ctypes.CDLL(None, use_errno=True)
for kind, where in (
    ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"), ("bpf", "/sys/fs/bpf"), ("securityfs", "/sys/kernel/security"),
):
    os.makedirs(where, exist_ok=True)
    if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None):
        print("cannot mount", where, os.strerror(ctypes.get_errno()))
fd = os.open("/brd.ko", os.O_RDONLY)
if libc.syscall(313, fd, b"rd_nr=2", 0):
    print("cannot load brd:", os.strerror(ctypes.get_errno()))
os.chdir("/tests")
sys.path[:0] = ["/tests", "/src", "/packages"]
found = {{}}
try:
    import script
    found = script.main()
except BaseException:
    traceback.print_exc()
os.write(1, ("\\n{_MARK}" + json.dumps(found) + "\\n").encode())
os.sync()
libc.reboot(0x4321FEDC)
"""


def missing() -> str:
    """Why no guest can be started on this machine; "" if one can."""
    if os.uname().machine != "x86_64":
        return "the guest is x86-64"
    if shutil.which(_QEMU) is None:
        return f"{_QEMU} is not installed"
    if _kernel() is None:
        return "no kernel with BPF LSM is installed; KMIND_GUEST names none that is unpacked"
    return ""


def run_in_guest(folder: Path, script: Path, *, lsm: str, seconds: int = 400) -> dict[str, Any]:
    """Boot with those security modules, call ``main`` of the script, and return its result.

    ``folder`` takes the initramfs. AssertionError with what the guest printed if the
    script failed, or said nothing for so long (a guest that hangs, not one that is slow).
    """
    kernel = _kernel()
    assert kernel is not None
    image = folder / "initramfs"
    if not image.exists():
        _write_initramfs(image, kernel, script)
    command = [
        _QEMU, "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "1",
        "-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel), "-initrd", str(image),
        "-append", f"console=ttyS0 quiet panic=-1 {_NO_CX16} lsm={lsm}",
    ]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=seconds,
    )  # fmt: skip
    said = done.stdout.decode(errors="replace")
    results = re.findall(rf"^{_MARK}(.*?)\r?$", said, re.MULTILINE)
    found: dict[str, Any] = json.loads(results[-1]) if results else {}
    assert found, f"the guest said:\n{said[-6000:]}"
    return found


@functools.cache
def _kernel() -> Path | None:
    boot = Path(os.environ.get("KMIND_GUEST", "/")) / "boot"
    for kernel in sorted(boot.glob("vmlinuz-*"), reverse=True):
        config = kernel.with_name(kernel.name.replace("vmlinuz", "config", 1))
        said = config.read_text().splitlines() if config.exists() else []
        if set(_NEEDED) <= set(said) and any(_module(kernel)):
            return kernel
    return None


def _module(kernel: Path) -> Iterator[Path]:
    release = kernel.name.removeprefix("vmlinuz-")
    for modules in ("lib/modules", "usr/lib/modules"):
        yield from (kernel.parent.parent / modules / release).glob("kernel/drivers/block/brd.ko*")


def _write_initramfs(image: Path, kernel: Path, script: Path) -> None:
    module = next(_module(kernel))
    data = module.read_bytes()
    files: dict[str, bytes | Path] = {
        "/init": _INIT.encode(),
        "/brd.ko": lzma.decompress(data) if module.suffix == ".xz" else data,
        "/tests/script.py": script,
        "/tests/guard/gate_support.py": _ROOT / "tests/guard/gate_support.py",
        str(_PYTHON): _PYTHON,
    }
    _add(files, _ROOT / "src/kmind", "/src/kmind")
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        package = Path(spec.origin).parent
        _add(files, package, f"/packages/{name}")
        if (libraries := package.with_name(f"{name}.libs")).is_dir():
            _add(files, libraries, f"/packages/{name}.libs")
    standard = Path(sysconfig.get_path("stdlib"))
    _add(files, standard, str(standard))
    libraries = [path for path in files.values() if isinstance(path, Path) and ".so" in path.name]
    for library in _needs([_PYTHON, *libraries]):
        files[str(library)] = library
    folders = sorted({str(p) for name in files for p in Path(name).parents} - {"/"})
    rows = [(folder, stat.S_IFDIR | 0o755, b"") for folder in folders]
    names = [*rows, *((name, stat.S_IFREG | 0o755, content) for name, content in files.items())]
    with image.open("wb") as out:
        for number, (name, mode, content) in enumerate([*names, ("TRAILER!!!", 0, b"")], 1):
            text = content.read_bytes() if isinstance(content, Path) else content
            out.write(_entry(number, name, mode, text))


def _add(files: dict[str, bytes | Path], folder: Path, where: str) -> None:
    unwanted = {"tests", "test", "site-packages", "idlelib", "ensurepip", "tkinter", "lib2to3"}
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not unwanted & set(inside.parts) and path.suffix not in (".a", ".c"):
            files[f"{where}/{inside}"] = path


def _needs(programs: list[Path]) -> set[Path]:
    """The shared libraries that these load, by the paths at which they look for them."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True).stdout
    bpf = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout
    found = {Path(path) for path in re.findall(r"\s(/[^\s:]+) \(0x", said)}
    own = {Path(path) for path in re.findall(r"libbpf\.so\.\d+ .*=> (/\S+)", bpf)}
    return found | own | (_needs(sorted(own)) if own and programs[0] == _PYTHON else set())


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One file of a cpio archive (newc; Documentation/driver-api/early-userspace)."""
    name = name.removeprefix("/")
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
