# SPDX-License-Identifier: Apache-2.0
"""A guest with a kernel of its own, for what the kernel of this machine refuses.

It runs a Python script under qemu, emulated, from an initramfs that holds this very
interpreter, its libraries and kmind's sources, and systemd where it is wanted; nothing of
the machine is mounted in it.
The kernel is Debian's for clouds, or another with BPF LSM: the newest that is installed,
or the one of a package that was unpacked into the folder KMIND_GUEST.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
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
_SYSTEMD = Path("/lib/systemd")
# Of the many units that systemd comes with, those that bring up the journal.
_UNITS = (
    "-.slice", "basic.target", "local-fs.target", "paths.target", "shutdown.target",
    "slices.target", "sockets.target", "sysinit.target", "system.slice", "systemd-journald.service",
    "systemd-journald.socket", "systemd-journald-dev-log.socket", "timers.target", "umount.target",
)  # fmt: skip
_PLAIN = {".service", ".slice", ".socket", ".target"}
_PROGRAMS = ("bash", "journalctl", "kill", "systemctl")
_NEEDED = ("CONFIG_BPF_LSM=y", "CONFIG_DEBUG_INFO_BTF=y", "CONFIG_BLK_DEV_RAM=m")
# The emulator (qemu 7.2 was seen to) loses flags over cmpxchg16b, and the kernel panics.
_NO_CX16 = "clearcpuid=141"
_MARK = "KMIND-GUEST "
_PYTHON = Path(sys.executable).resolve()
_BEGIN = f"""\
#!{_PYTHON} -B
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def mount(kind, where):
    os.makedirs(where, exist_ok=True)
    if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None):
        print("cannot mount", where, os.strerror(ctypes.get_errno()))
def load(file, words):
    fd = os.open(file, os.O_RDONLY)
    if libc.syscall(313, fd, words, 0):
        print("cannot load", file, os.strerror(ctypes.get_errno()))
"""
_MOUNT = """
for kind, where in (
    ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"), ("bpf", "/sys/fs/bpf"), ("securityfs", "/sys/kernel/security"),
):
    mount(kind, where)
load("/brd.ko", b"rd_nr=2")
"""
_RUN = f"""
import json, sys, traceback
os.chdir("/tests")
sys.path[:0] = ["/tests", "/src", "/packages"]
found = {{}}
try:
    import script
    found = script.main()
except BaseException:
    traceback.print_exc()
with open("/dev/console", "w") as out:
    out.write("\\n{_MARK}" + json.dumps(found) + "\\n")
os.sync()
libc.reboot(0x4321FEDC)
"""
# systemd confines services by mounts, which takes a root that is no initramfs.
_SYSTEMD_INIT = """
import shutil
mount("devtmpfs", "/dev")
mount("proc", "/proc")
load("/brd.ko", b"rd_nr=2")
inside = [name for name in os.listdir("/") if name not in ("dev", "proc")]
mount("tmpfs", "/new-root")
for name in inside:
    if os.path.isdir("/" + name):
        shutil.copytree("/" + name, "/new-root/" + name, symlinks=True)
    else:
        shutil.copy("/" + name, "/new-root/" + name)
os.chdir("/new-root")
libc.mount(b"/new-root", b"/", None, 0x2000, None)
os.chroot(".")
os.chdir("/")
os.execv("/lib/systemd/systemd", ["systemd", "--show-status=no", "--log-target=console"])
"""
_TRIAL = f"""
[Unit]
Description=the trial
[Service]
Type=oneshot
ExecStart={_PYTHON} /trial
StandardOutput=tty
StandardError=tty
"""
_TARGET = """
[Unit]
Requires=basic.target
Wants=systemd-journald.service trial.service
After=basic.target
"""


def missing(*, systemd: bool = False) -> str:
    """Return the reason why no guest, or none with systemd, can be started here; "" if one can."""
    if os.uname().machine != "x86_64":
        return "the guest is x86-64"
    if shutil.which(_QEMU) is None:
        return f"{_QEMU} is not installed"
    if systemd and not (_SYSTEMD / "systemd").exists():
        return "systemd is not installed"
    if _kernel() is None:
        return "no kernel with BPF LSM is installed; KMIND_GUEST names none that is unpacked"
    return ""


def run_in_guest(
    folder: Path, script: Path, *, lsm: str, seconds: int = 400, systemd: bool = False
) -> dict[str, Any]:
    """Boot with those security modules, call ``main`` of the script, and return its result.

    ``folder`` takes the initramfs. With ``systemd`` the script is a service of its, beside a
    journal; kmind's command is ``/usr/bin/kmind``. AssertionError with what the guest printed
    if the script failed, or said nothing for so long (a guest that hangs, not a slow one).
    """
    kernel = _kernel()
    assert kernel is not None
    image = folder / "initramfs"
    if not image.exists():
        _write_initramfs(image, kernel, script, systemd=systemd)
    command = [
        _QEMU, "-accel", "tcg", "-cpu", "max", "-m", "2048", "-smp", "1",
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


def _write_initramfs(image: Path, kernel: Path, script: Path, *, systemd: bool) -> None:
    module = next(_module(kernel))
    data = module.read_bytes()
    init = _SYSTEMD_INIT if systemd else _MOUNT + _RUN
    files: dict[str, bytes | Path] = {
        "/init": (_BEGIN + init).encode(),
        "/brd.ko": lzma.decompress(data) if module.suffix == ".xz" else data,
        "/tests/script.py": script,
        "/tests/guard/gate_support.py": _ROOT / "tests/guard/gate_support.py",
        str(_PYTHON): _PYTHON,
    }
    _add(files, _ROOT / "src/kmind", "/src/kmind")
    for name in _distributions() if systemd else _PACKAGES:
        for path in importlib.metadata.files(name) or ():
            if ".." not in path.parts and not {"tests", "__pycache__"} & set(path.parts):
                files[f"/packages/{path}"] = Path(str(path.locate()))
    standard = Path(sysconfig.get_path("stdlib"))
    _add(files, standard, str(standard))
    if systemd:
        _add_systemd(files)
    libraries = [path for path in files.values() if isinstance(path, Path) and ".so" in path.name]
    programs = [
        path for name, path in files.items()
        if isinstance(path, Path) and (name.startswith(("/usr/bin/", "/lib/systemd/systemd")))
    ]  # fmt: skip
    for library in _needs([_PYTHON, *libraries, *programs]):
        files[str(library)] = library
    folders = sorted({str(p) for name in files for p in Path(name).parents} - {"/"})
    rows: list[tuple[str, int, bytes | Path]] = [
        (folder, stat.S_IFDIR | 0o755, b"") for folder in folders
    ]
    for name, content in files.items():
        # systemd does not like to see that its files may be executed.
        mode = 0o644 if Path(name).suffix in _PLAIN else 0o755
        rows.append((name, stat.S_IFREG | mode, content))
    with image.open("wb") as out:
        for number, (name, mode, content) in enumerate([*rows, ("TRAILER!!!", 0, b"")], 1):
            text = content.read_bytes() if isinstance(content, Path) else content
            out.write(_entry(number, name, mode, text))


def _distributions() -> list[str]:
    """Return the installed packages that kmind and its daemon need, without kmind itself."""
    found: dict[str, None] = {}
    ahead = ["kmind[daemon]"]
    while ahead:
        name, _, extra = ahead.pop().rstrip("]").partition("[")
        for line in importlib.metadata.requires(name) or ():
            _, _, when = line.partition(";")
            if "extra" not in when or (extra and f'extra == "{extra}"' in when.replace("'", '"')):
                each = re.split(r"[ ;<>=!~\[]", line)[0]
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    importlib.metadata.distribution(each)
                    if each not in found:
                        found[each] = None
                        ahead.append(each)
    return list(found)


def _add_systemd(files: dict[str, bytes | Path]) -> None:
    units = "/etc/systemd/system"
    for name in ("systemd", "systemd-journald", "systemd-shutdown"):
        files[f"{_SYSTEMD}/{name}"] = _SYSTEMD / name
    for name in _UNITS:
        if (unit := _SYSTEMD / "system" / name).exists():
            files[f"{_SYSTEMD}/system/{name}"] = unit
    for name in _PROGRAMS:
        found = shutil.which(name)
        assert found, f"{name} is not installed"
        files[f"/usr/bin/{name}"] = Path(found).resolve()
    files["/usr/bin/sh"] = files["/bin/sh"] = files["/usr/bin/bash"]
    files["/usr/bin/kmind"] = (
        f'#!/bin/sh\nPYTHONPATH=/src:/packages exec {_PYTHON} -m kmind "$@"\n'
    ).encode()
    files["/trial"] = (_BEGIN + _RUN).encode()
    files[f"{units}/default.target"] = _TARGET.encode()
    files[f"{units}/trial.service"] = _TRIAL.encode()
    files[f"{units}/kmind.service"] = _ROOT / "src/kmind/serve/kmind.service"
    files["/etc/passwd"] = b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    files["/etc/group"] = b"root:x:0:\nnogroup:x:65534:\nsystemd-journal:x:990:\nkmind:x:991:\n"
    files["/etc/machine-id"] = b"00000000000000000000000000000001\n"
    files["/etc/os-release"] = b"ID=guest\n"


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
