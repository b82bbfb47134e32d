# SPDX-License-Identifier: Apache-2.0
"""The tries of `kmind.bpf.probe` that ask the machine: privileges, mounts, tools, types.

A try returns what it found, in a few words or none, and raises as those in
`kmind.bpf._tries` do.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from kmind.abi.btf import Btf
from kmind.bpf import _libbpf
from kmind.bpf import _syscall as raw
from kmind.bpf.landlock import landlock_version
from kmind.errors import BpfError, NotSupportedError, PrivilegeError
from kmind.util.packages import install_hint

__all__ = [
    "LOCKDOWN",
    "LSMS",
    "MOUNTS",
    "PROC",
    "active_lsm",
    "bpftool",
    "btf",
    "capabilities",
    "cgroup_controllers",
    "clang",
    "landlock",
    "libbpf",
    "lockdown",
    "mounted",
    "pid_namespace",
    "pidfd_getfd",
    "reads_kernel_memory",
    "root",
    "sandbox_capabilities",
    "time_namespace",
    "tracepoints",
]

LOCKDOWN = Path("/sys/kernel/security/lockdown")
LSMS = Path("/sys/kernel/security/lsm")
MOUNTS = Path("/proc/self/mountinfo")
PROC = Path("/proc")

# The numbers of the initial namespaces are fixed (include/uapi/linux/nsfs.h).
_HOSTS = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}

_CONTROLLERS = ("cpu", "memory", "pids")

# Bits of capabilities (linux/capability.h): those that an agent needs, and those with which its
# owner makes the extension a user of its own, and ends it.
_SYS_ADMIN = 21  # stands for both of the former
_LOADING = {"CAP_BPF": 39, "CAP_PERFMON": 38}
_STARTING = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8}
_OLDEST_LIBBPF = (1, 1)
_OLDEST_CLANG = 19
_RAW_TP = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT


def root() -> str:
    """The process runs as root."""
    if os.geteuid():
        raise PrivilegeError(f"user id {os.geteuid()}, not root")
    return ""


def capabilities() -> str:
    """The capabilities that loading and attaching needs (capabilities(7))."""
    held = _held()
    lacking = [name for name, bit in _LOADING.items() if not held >> bit & 1]
    if lacking and not held >> _SYS_ADMIN & 1:
        raise _not_held(lacking, "agents cannot be loaded")
    if not _is_hosts("user"):
        raise PrivilegeError(
            "the capabilities are held in a user namespace only, where BPF does not count them",
            hint="run kmind as the host's root",
        )
    return "CAP_SYS_ADMIN" if lacking else ", ".join(_LOADING)


def sandbox_capabilities() -> str:
    """The capabilities that starting and ending an extension needs."""
    held = _held()
    if lacking := [name for name, bit in _STARTING.items() if not held >> bit & 1]:
        raise _not_held(lacking, "extensions cannot be started and ended")
    return ", ".join(_STARTING)


def _held() -> int:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", (PROC / "self/status").read_text(), re.MULTILINE)
    return int(match[1], 16) if match else 0


def _not_held(lacking: list[str], costs: str) -> PrivilegeError:
    if os.geteuid():
        return PrivilegeError(f"not held: {', '.join(lacking)}", hint="run as root")
    wanted = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in lacking)
    return PrivilegeError(
        f"root lacks {', '.join(lacking)}, as in a container: {costs}",
        hint=f"start the container with {wanted}",
    )


def _is_hosts(kind: str) -> bool:
    # Where the kernel has no such namespaces there is only the host's.
    try:
        return str((PROC / "self/ns" / kind).readlink()) == f"{kind}:[{_HOSTS[kind]}]"
    except OSError:
        return True


def pid_namespace() -> str:
    """The PID namespace is the host's, so that every process is seen."""
    if str((PROC / "self").readlink()) != str(os.getpid()):
        raise NotSupportedError(
            "/proc shows the processes of another PID namespace than this one",
            hint="mount -t proc proc /proc",
        )
    if not _is_hosts("pid"):
        raise NotSupportedError("not the host's: this is a container, which sees its own processes")
    return ""


def time_namespace() -> str:
    """Clocks are the kernel's own, not set off by a time namespace (time_namespaces(7))."""
    try:
        lines = (PROC / "self/timens_offsets").read_text().splitlines()
    except OSError:  # a kernel that has none
        return ""
    for clock, seconds, nanoseconds in map(str.split, lines):
        offset = int(seconds) + int(nanoseconds) / 1e9
        if offset:
            raise NotSupportedError(
                f"a time namespace sets the {clock} clock {offset:g} s off the kernel's, "
                "which agents use",
                hint="start kmind in the host's: nsenter --time=/proc/1/ns/time kmind ...",
            )
    return ""


def btf() -> str:
    """The kernel's own types."""
    Btf.kernel()
    return ""


def lockdown() -> str:
    """Programs may read kernel memory, which lockdown=confidentiality forbids."""
    try:
        match = re.search(r"\[(\w+)\]", LOCKDOWN.read_text())
        state = match[1] if match else "unknown"
    except OSError:
        state = "state not shown, for securityfs is not mounted or has none"
    if not reads_kernel_memory():
        raise PrivilegeError(
            f"{state}: programs may not read kernel memory",
            hint="boot with lockdown=integrity, or none",
        )
    return state


def reads_kernel_memory() -> bool:
    """True if programs may read kernel memory.

    Raises PrivilegeError if none may be loaded at all.
    """
    # r0 = bpf_probe_read_kernel(stack, 8, stack)
    code = raw.insn(0xBF, 1, 10) + raw.insn(0x07, 1, imm=-8) + raw.insn(0xB7, 2, imm=8)
    code += raw.insn(0xBF, 3, 1) + raw.call(113) + raw.returns(0)
    try:
        os.close(raw.prog_load(_RAW_TP, code))
    except PrivilegeError:
        raise
    except BpfError:
        return False
    return True


def mounted(kind: str, where: str) -> str:
    """Return the mount point of a file system of type ``kind``.

    The hint names the usual one, ``where``.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        if found == kind:
            return place
    raise NotSupportedError("not mounted", hint=f"mount -t {kind} {kind} {where}")


def active_lsm(name: str) -> str:
    """That security module is among those that the kernel asks, which are returned."""
    try:
        active = LSMS.read_text().strip()
    except OSError as error:
        raise NotSupportedError(f"cannot read {LSMS}: {error.strerror}") from None
    if name not in active.split(","):
        raise NotSupportedError(
            f"{name} is not among the active security modules ({active})",
            hint=f"add {name} to lsm= on the kernel's command line",
        )
    return active


def landlock() -> str:
    """Landlock, which takes files out of an extension's reach."""
    return f"version {landlock_version()}"


def cgroup_controllers() -> str:
    """The controllers that limit extensions, in whichever version of cgroups has them."""
    versions: dict[str, str] = {}
    for line in MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup":
            offered, version = options.split(","), "v1"
        elif kind == "cgroup2":
            offered = Path(before.split()[4], "cgroup.controllers").read_text().split()
            version = "v2"
        else:
            continue
        versions |= {name: version for name in _CONTROLLERS if name in offered}
    if lacking := [name for name in _CONTROLLERS if name not in versions]:
        raise NotSupportedError(
            f"no mounted cgroup hierarchy has {', '.join(lacking)}",
            hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
    return ", ".join(f"{name} {versions[name]}" for name in _CONTROLLERS)


def libbpf() -> str:
    """The library, new enough."""
    version = _libbpf.version()
    text = ".".join(map(str, version))
    if version < _OLDEST_LIBBPF:
        raise NotSupportedError(
            f"{text} is older than 1.1", hint=install_hint("libbpf", "1.1 or later")
        )
    return text


def clang() -> str:
    """A compiler new enough for arenas."""
    best = 0
    for folder in os.get_exec_path():
        for path in Path(folder).glob("clang*"):
            if re.fullmatch(r"clang(-\d+)?", path.name):
                best = max(best, _clang_version(path))
    if best < _OLDEST_CLANG:
        finding = f"version {best} is older than {_OLDEST_CLANG}" if best else "not installed"
        raise NotSupportedError(finding, hint=install_hint("clang", f"{_OLDEST_CLANG} or later"))
    return str(best)


def _clang_version(path: Path) -> int:
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    match = re.search(r"clang version (\d+)", shown.stdout)
    return int(match[1]) if match else 0


def bpftool() -> str:
    """The tool, which helps people; kmind does not need it."""
    path = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
    if path is None:
        raise NotSupportedError("not installed", hint=install_hint("bpftool"))
    return path


def pidfd_getfd() -> str:
    """A descriptor can be taken from a process that it is open in."""
    reader, writer = os.pipe()
    with raw.owned(reader), raw.owned(writer), raw.owned(os.pidfd_open(os.getpid())) as self_fd:
        os.close(raw.pidfd_getfd(self_fd, reader))
    return ""


def tracepoints(names: tuple[str, ...]) -> str:
    """All these tracepoints are there for tp_btf programs."""
    kernel = Btf.kernel()
    lacking = [name for name in names if kernel.tracepoint_args(name) is None]
    if lacking:
        raise NotSupportedError(f"this kernel has no {', '.join(lacking)}")
    return ", ".join(names)
