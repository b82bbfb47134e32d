# SPDX-License-Identifier: Apache-2.0
"""A guest: a kernel that people run, booted under qemu, with disks and networks of its own.

    with Guest("6.1", disks=[Disk("virtio", 64)]) as guest:
        done = guest.run("uname", "-r")            # .code, .stdout, .stderr
        found = guest.call("vm.lsm_script:main")   # a function of tests/, its result as JSON
        disk = guest.disk(0)                       # "vda"
        print(guest.kernel_log())

``tools/guests.sh`` makes what it boots from: the kernels "6.1", "6.12" and "newest" of Debian, and
the image of a root file system. kmind, as its wheel has it, and ``tests/`` are at ``/kmind`` there,
read-only and on Python's path; Python, libbpf, fio, clang, bpftool, systemd and kmind's
dependencies are in the root. What a guest writes is in the folder it is given, and gone with it.

Processors are emulated, so Python takes ten times as long as outside; one guest after another is
quickest. Nothing of the machine is mounted in it or reached by its network cards. Any failure is
a GuestError with the last lines of its console: a panic, a guest that says nothing for too long
(it is killed), a command that takes more than its time (the command is killed, the guest stays).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vm.image import KERNELS, Kernel, find_kernel, make_project, missing, root_image

__all__ = ["KERNELS", "Disk", "Done", "Guest", "GuestError", "missing"]

QEMU = "qemu-system-x86_64"
# The emulator (qemu 7.2 was seen to) loses flags over cmpxchg16b, and the kernel panics.
_NO_CX16 = "clearcpuid=141"
# On a busy machine its timer is late, and the kernel panics: "IO-APIC + timer doesn't work".
_LATE_TIMER = "no_timer_check"
# Without it kmalloc_nolock(), by which later kernels make arenas and timers of BPF, has memory from
# caches with debugging only (mm/slub.c).
_NOLOCK = "slub_debug=F,kmalloc-*"
_BOOT_S = 60.0  # to be ready; far more than it takes, for a machine that has other work
_LINES = 60
_FIRST_SLOT = 0x10  # of extra devices on the PCI bus
_DISKS = {
    "virtio": ["virtio-blk-pci,drive={name},addr={slot:#x}"],
    "nvme": ["nvme,drive={name},serial={name},addr={slot:#x}"],
    "ahci": ["ahci,id=bus-{name},addr={slot:#x}", "ide-hd,drive={name},bus=bus-{name}.0"],
}
_MODULES = {"virtio": ["virtio_blk"], "nvme": [], "ahci": ["ahci", "sd_mod"]}


class GuestError(AssertionError):
    """A guest, or a command in it, did not do what it should; the text has its last lines."""


class _HangsError(GuestError):
    """A guest said nothing for too long."""


@dataclass(frozen=True)
class Disk:
    """An empty disk: its kind ("virtio", "nvme" or "ahci") and its size in MiB.

    ``mib_s``: it moves no more than this in a second; 0 is without a limit.
    """

    kind: str
    mib: int
    mib_s: int = 0


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit code (negative: a signal) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Guest:
    """One guest; as a context manager it is booted, and its qemu is gone at the end.

    ``kernel``: "6.1", "6.12" or "newest". ``disks`` beside its own; ``nics``: network cards on a
    wire of their own, which nothing else is on. ``lsm``: the security modules, as the kernel's
    parameter. ``systemd``: as process 1, with a journal. ``iommu``: an Intel one, which confines
    each PCI function to memory that was granted to it. ``boot``: more kernel parameters.
    ``memory_mib``, ``cpus``: its size. ``seconds``: what it may take as a whole. ``folder``: for
    its disks and console.log; without one it is made and removed. ``grace_s``, an attribute: how
    long the guest may take to say that a command's time is over; then it is held to hang.
    """

    def __init__(
        self, kernel: str, *, disks: Sequence[Disk] = (), nics: int = 0, lsm: str = "",
        systemd: bool = False, iommu: bool = False, boot: str = "", memory_mib: int = 2048,
        cpus: int = 1, seconds: float = 600, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.kernel: Kernel = find_kernel(kernel)
        self.disks, self.nics = tuple(disks), nics
        self.lsm, self.systemd, self.iommu, self.boot = lsm, systemd, iommu, boot
        self.memory_mib, self.cpus, self.seconds = memory_mib, cpus, seconds
        self.boot_s = 0.0  # from start to ready
        self.grace_s = 60.0
        self._folder, self._own = folder, folder is None
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._heard = b""
        self._deadline = 0.0

    def __enter__(self) -> Guest:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def start(self) -> None:
        """Boot; after ``shutdown`` or ``kill`` once more, with the disks as they were left."""
        assert self._process is None, "it runs"
        self._make_disks()
        make_project()  # once; the next call has it
        self.limit(self.seconds)
        try:
            self._boot()  # of some 200, one of 6.1 hung beside other work before its first word
        except _HangsError:
            if self.console():
                raise
            self._boot()
        if wanted := sorted({name for disk in self.disks for name in _MODULES[disk.kind]}):
            self.load(*wanted)
        if self.nics:
            self.load("virtio_net")

    def _boot(self) -> None:
        # Start its qemu, and a line to the agent in it, and wait until that speaks.
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        self._line, self._heard = ours, b""
        with theirs:
            command = self._command(
                "-serial", f"file:{self._path('console.log')}",
                "-chardev", f"socket,id=line,fd={theirs.fileno()}",
            )  # fmt: skip
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=self._path("qemu.log").open("wb"), pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self._receive(began + min(_BOOT_S, self.seconds), "boot")
        self.boot_s = time.monotonic() - began

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The guest's qemu, as long as it runs."""
        assert self._process is not None, "it does not run"
        return self._process

    def limit(self, seconds: float) -> None:
        """Let it take no longer than this from now on."""
        self._deadline = time.monotonic() + seconds

    def shell(self) -> int:
        """Boot to a shell on this terminal; return when the guest has ended."""
        self._make_disks()
        self.boot += " guest.shell"
        terminal = ["-serial", "mon:stdio", "-chardev", "null,id=line"]
        try:
            return subprocess.run(self._command(*terminal)).returncode
        finally:
            self.close()

    def run(
        self, *command: str, seconds: float = 120, cwd: str = "/kmind",
        environment: Mapping[str, str] | None = None, input: bytes = b"", check: bool = False,
    ) -> Done:  # fmt: skip
        """Run a command to its end, and return its code and what it wrote.

        GuestError if it takes longer than ``seconds``, or with ``check`` if it fails.
        """
        seconds = max(0.1, min(seconds, self._deadline - time.monotonic()))
        paths = {"PYTHONPATH": "/kmind/tests"}
        answer = self._ask(
            seconds + self.grace_s, " ".join(command), do="run", command=command, seconds=seconds,
            cwd=cwd, environment={**paths, **(environment or {})}, input=_coded(input),
        )  # fmt: skip
        out, err = _text(answer["stdout"]), _text(answer["stderr"])
        if answer["code"] is None or (check and answer["code"] != 0):
            what = f"took more than {seconds:.0f} s" if answer["code"] is None else "failed"
            raise self._error(f"{' '.join(command)} {what}:\n{out[-6000:]}\n{err[-6000:]}")
        return Done(answer["code"], out, err)

    def python(self, code: str, *arguments: str, **options: Any) -> Done:
        """Run Python code; options are those of ``run``."""
        return self.run("python3", "-c", code, *arguments, **options)

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Call a function below ``tests``, "vm.lsm_script:main"; arguments and result are JSON.

        GuestError with its trace if it raises; options are those of ``run``.
        """
        module, _, name = function.partition(":")
        code = (
            "import importlib, json, sys; from pathlib import Path\n"
            "function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])\n"
            "result = function(*json.loads(sys.argv[3]))\n"
            "Path('/run/result.json').write_text(json.dumps(result))\n"
        )
        self.python(code, module, name, json.dumps(arguments), check=True, **options)
        return json.loads(self.read("/run/result.json"))

    def read(self, path: str) -> bytes:
        """Return what a file of the guest holds (of a long one the last 16 MiB)."""
        return _decoded(self._ask(self.grace_s, f"read {path}", do="read", path=path)["data"])

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the guest, with the folders it is in."""
        self._ask(self.grace_s, f"write {path}", do="write", path=path, data=_coded(data))

    def load(self, *modules: str, **parameters: str | int) -> None:
        """Load kernel modules, as modprobe does; parameters are for the only one."""
        words = [f"{name}={value}" for name, value in parameters.items()]
        several = ["-a"] if len(modules) > 1 else []
        self.run("modprobe", *several, *modules, *words, check=True)

    def disk(self, number: int) -> str:
        """Return the name that an extra disk has there, such as "vda" or "nvme1n1"."""
        return self._device("/sys/block", number)

    def nic(self, number: int) -> str:
        """Return the name that a network card has there, such as "eth0"."""
        return self._device("/sys/class/net", len(self.disks) + number)

    def connect(self) -> tuple[str, str]:
        """Give the first two network cards addresses, the second in the namespace "peer".

        Returns the addresses: what is sent from one to the other goes over the wire.
        """
        here, peer = self.nic(0), self.nic(1)
        for line in (
            "ip netns add peer", f"ip link set {peer} netns peer",
            f"ip addr add 10.9.0.1/24 dev {here}", f"ip link set {here} up",
            f"ip -n peer addr add 10.9.0.2/24 dev {peer}", f"ip -n peer link set {peer} up",
        ):  # fmt: skip
            self.run(*line.split(), check=True)
        return "10.9.0.1", "10.9.0.2"

    def kernel_log(self) -> str:
        """Return the kernel's log since boot."""
        return self.run("dmesg", check=True).stdout

    def console(self) -> str:
        """Return what was written to the console so far; it is kept when the guest is gone."""
        path = self._path("console.log")
        return path.read_bytes().decode(errors="replace") if path.exists() else ""

    def shutdown(self) -> None:
        """Let it write what it has to write, and end."""
        self.run("sync", check=True)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a power failure does: what it did not write is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """End it, and remove its disks if they were in no folder that was given."""
        self.kill()
        if self._own and self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def _path(self, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kmind-guest-"))
        return self._folder / name

    def _make_disks(self) -> None:
        if not (root := self._path("root.qcow2")).exists():
            layer = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
            subprocess.run([*layer, "-b", root_image(), root], check=True)
        for number, disk in enumerate(self.disks):
            if not (path := self._path(f"disk{number}")).exists():
                with path.open("wb") as file:
                    file.truncate(disk.mib << 20)

    def _command(self, *more: str) -> list[str]:
        words = ["quiet", "rootwait", "root=PARTUUID=6b6d696e-01", "rw", "init=/sbin/guest-init"]
        words += ["console=ttyS0", "panic=-1", "oops=panic", _NO_CX16, _LATE_TIMER, "net.ifnames=0"]
        words += [_NOLOCK] * (self.kernel.name == "newest")
        words += [f"lsm={self.lsm}"] * bool(self.lsm) + ["guest.systemd"] * self.systemd
        words += ["intel_iommu=on"] * self.iommu
        drives = [("root", self._path("root.qcow2"), "qcow2"), ("project", make_project(), "raw")]
        for number, disk in enumerate(self.disks):
            limit = f",throttling.bps-total={disk.mib_s << 20}" * bool(disk.mib_s)
            drives.append((f"disk{number}", self._path(f"disk{number}"), f"raw{limit}"))
        command = [
            QEMU, "-accel", os.environ.get("KMIND_GUEST_ACCEL", "tcg"), "-cpu", "max",
            "-m", str(self.memory_mib), "-smp", str(self.cpus), "-no-reboot", "-nodefaults",
            "-no-user-config", "-display", "none", "-kernel", str(self.kernel.image),
            "-append", " ".join([*words, *self.boot.split()]),
        ]  # fmt: skip
        if self.iommu:  # first: it guards what comes after it
            command += ["-machine", "q35", "-device", "intel-iommu"]
        for name, path, kind in drives:
            only = ",readonly=on" * (name == "project")
            command += ["-drive", f"file={path},format={kind},if=none,id={name}{only}"]
        for device in self._devices():
            command += ["-device", device]
        for number in range(self.nics):
            command += ["-netdev", f"hubport,id=wire{number},hubid=0"]
        return [*command, *more]

    def _devices(self) -> Iterator[str]:
        yield "nvme,id=own,serial=own"
        yield "nvme-ns,drive=root,bus=own,nsid=1"
        yield "nvme-ns,drive=project,bus=own,nsid=2"
        yield "virtio-serial"
        yield "virtserialport,chardev=line,name=agent"
        for slot, disk in enumerate(self.disks, _FIRST_SLOT):
            for device in _DISKS[disk.kind]:
                yield device.format(name=f"disk{slot - _FIRST_SLOT}", slot=slot)
        for number in range(self.nics):
            slot = _FIRST_SLOT + len(self.disks) + number
            yield f"virtio-net-pci,netdev=wire{number},romfile=,addr={slot:#x}"

    def _device(self, folder: str, number: int) -> str:
        place = f"/0000:00:{_FIRST_SLOT + number:02x}.0/"
        shown = self.run("find", folder, "-type", "l", "-printf", "%f %l\\n", check=True).stdout
        names = [line.split()[0] for line in shown.splitlines() if place in line]
        if not names:
            raise self._error(f"no device of {folder} is at {place}")
        return names[0]

    def _ask(self, patience: float, what: str, **request: Any) -> dict[str, Any]:
        assert self._line is not None, "it does not run"
        self._line.settimeout(patience)
        with contextlib.suppress(OSError):  # it is gone; to receive tells how
            self._line.sendall(json.dumps(request).encode() + b"\n")
        answer = self._receive(time.monotonic() + patience, what)
        if "error" in answer:
            raise self._error(f"{what}: {answer['error']}")
        return answer

    def _receive(self, deadline: float, what: str) -> dict[str, Any]:
        assert self._line is not None
        began = time.monotonic()
        while b"\n" not in self._heard:
            self._line.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._line.recv(1 << 20)
            except TimeoutError:
                waited = time.monotonic() - began
                how = f"hangs, {what}: no answer in {waited:.0f} s"
                raise self._died(how, _HangsError) from None
            except OSError:
                part = b""
            if not part:
                panic = re.search(r"Kernel panic[^\r\n]*", self.console())
                raise self._died(panic[0] if panic else "ended") from None
            self._heard += part
        first, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(first)
        return answer

    def _died(self, how: str, kind: type[GuestError] = GuestError) -> GuestError:
        self.kill()
        return self._error(f"the guest {how}", kind)

    def _error(self, text: str, kind: type[GuestError] = GuestError) -> GuestError:
        qemu = self._path("qemu.log").read_text(errors="replace")
        lines = "\n".join([*qemu.splitlines(), *self.console().splitlines()][-_LINES:])
        return kind(f"{self.kernel.release}: {text}\nThe last lines of its console:\n{lines}")


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)


def _text(coded: str) -> str:
    return _decoded(coded).decode(errors="replace")
