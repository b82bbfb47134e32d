# SPDX-License-Identifier: Apache-2.0
"""Resources of the machine that a measured load needs: disks, page cache, memory, disk space.

Nothing here outlives its caller: a memory limit is a control group of its own,
removed at the end, and the only processes that are ever signalled are those
that were started here.
"""

import contextlib
import errno
import itertools
import mmap
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from kmind.errors import KmindError, NotSupportedError, PrivilegeError, UsageError
from kmind.util.packages import install_hint

__all__ = [
    "back_memory",
    "device_of",
    "drop_caches",
    "find_tool",
    "free_memory_kept",
    "memory_limit",
    "need_space",
    "run_process",
    "stop_process",
    "under_limit",
]

_SYSFS_BLOCK = Path("/sys/dev/block")
_REPORTING_DELAY = Path("/sys/module/page_reporting/parameters/min_free_ms")
_REPORTED_LATER = "60000"  # ms; the driver takes no more than some minutes
_cgroup_number = itertools.count()


def device_of(path: Path) -> str:
    """Name of the whole disk that holds ``path``, as in /sys/block (``"vda"``).

    A partition gives its disk. A file system without a block device of its own
    number (btrfs, overlay) is looked up by its mount source. Raises UsageError
    when there is no such path, NotSupportedError when no disk stands behind it.
    """
    try:
        number = path.stat().st_dev
    except OSError as error:
        raise UsageError(
            f"no such path: {path} ({error.strerror})", hint="name an existing directory"
        ) from None
    node = _SYSFS_BLOCK / f"{os.major(number)}:{os.minor(number)}"
    if not node.exists():
        node = _mount_source(number)
    if not node.exists():
        raise NotSupportedError(
            f"{path} is not on a block device", hint="name a directory on a disk"
        )
    real = node.resolve()
    return (real.parent if (real / "partition").exists() else real).name


def _mount_source(number: int) -> Path:
    # mountinfo: id parent major:minor root mountpoint options [tags] - type source options
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            source = Path(right.split()[1])
            if source.is_block_device():
                device = source.stat().st_rdev
                return _SYSFS_BLOCK / f"{os.major(device)}:{os.minor(device)}"
    return _SYSFS_BLOCK / "none"


def drop_caches() -> None:
    """Write back dirty pages, then drop the page cache, dentries and inodes.

    Raises PrivilegeError without root.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as error:
        raise PrivilegeError(
            f"cannot drop the page cache: {error.strerror}", hint="run as root"
        ) from None


def back_memory(size: int) -> None:
    """Make the host give memory for ``size`` bytes, at most 0.8 of what is available.

    A virtual machine whose balloon reports free pages loses idle memory to its
    host seconds after it was freed, and pays microseconds a page to get it
    again: reading into such memory was measured at 0.5 GB/s, whatever the
    readahead, against 3 GB/s. Touching memory right before a load takes that
    out of the result. Without such a balloon it costs only the time to clear it.
    """
    size = min(size, _available_memory() * 4 // 5)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    memory.close()


@contextlib.contextmanager
def free_memory_kept(delay: Path = _REPORTING_DELAY) -> Iterator[None]:
    """Keep a balloon from giving free memory to the host while the block runs.

    Only where its driver lets that be delayed, which mainline does not. It reports free blocks
    of 2 MiB. Those a large readahead takes for its large folios, and waits until the host gives
    them again, while a small one gets by with the memory that is left between them.
    """
    before = delay.read_text() if delay.exists() else None
    if before is not None:
        delay.write_text(_REPORTED_LATER)
    try:
        yield
    finally:
        if before is not None:
            delay.write_text(before)


def _available_memory() -> int:
    match = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert match is not None  # since Linux 3.14
    return int(match[1]) << 10


def need_space(path: Path, size: int) -> None:
    """Raise KmindError unless the file system of ``path`` has ``size`` bytes free."""
    free = shutil.disk_usage(path).free
    if free < size:
        raise KmindError(
            f"{path} has {free / 2**30:.1f} GiB free, and {size / 2**30:.1f} GiB are needed",
            hint="free some space, or choose another directory",
        )


def find_tool(name: str) -> str:
    """Full path of a program; NotSupportedError names the package that has it."""
    path = shutil.which(name)
    if path is None:
        raise NotSupportedError(f"{name} is not installed", hint=install_hint(name))
    return path


@contextlib.contextmanager
def memory_limit(limit: int) -> Iterator[Path]:
    """A control group that holds its processes, page cache included, to ``limit`` bytes.

    Yields the file that a process joins by writing its pid there (see
    ``under_limit``). Works with cgroup v2 (memory.max) and v1
    (memory.limit_in_bytes). The group is removed at the end; on v2, a memory
    controller that had to be enabled for it is disabled again, unless others use it by then.
    """
    version, parent = _memory_hierarchy()
    group = parent / f"kmind-load-{os.getpid()}-{next(_cgroup_number)}"
    enabled = version == 2 and _enable_memory(parent, "+")
    try:
        try:
            group.mkdir()
        except OSError as error:
            raise PrivilegeError(
                f"cannot make the control group {group}: {error.strerror}",
                hint="mount cgroups for writing, or run kmind on the host"
                if error.errno == errno.EROFS
                else "run as root",
            ) from None
        try:
            name = "memory.max" if version == 2 else "memory.limit_in_bytes"
            (group / name).write_text(str(limit))
            yield group / "cgroup.procs"
        finally:
            group.rmdir()
    finally:
        if enabled:
            _disable_memory(parent)


def _memory_hierarchy() -> tuple[int, Path]:
    # The version and the root of the hierarchy that has the memory controller.
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return 1, Path(where)
        if kind == "cgroup2":
            controllers = Path(where, "cgroup.controllers").read_text().split()
            if "memory" in controllers:
                return 2, Path(where)
    raise NotSupportedError(
        "no control group hierarchy has the memory controller",
        hint="mount cgroup2 with the memory controller",
    )


def _enable_memory(parent: Path, sign: str) -> bool:
    # True when this call changed the controllers that children of parent have.
    control = parent / "cgroup.subtree_control"
    if ("memory" in control.read_text().split()) == (sign == "+"):
        return False
    control.write_text(f"{sign}memory")
    return True


def _disable_memory(parent: Path) -> None:
    try:
        _enable_memory(parent, "-")
    except OSError as error:
        # A group beside ours has come to hand it on (cgroup_subtree_control_write()): it stays.
        if error.errno != errno.EBUSY:
            raise


def under_limit(argv: Sequence[str], procs: Path | None) -> list[str]:
    """``argv``, changed so that the process joins the group of ``procs`` before it starts."""
    if procs is None:
        return list(argv)
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(procs), *argv]


def run_process(argv: Sequence[str], *, procs: Path | None = None) -> str:
    """Run a program to its end and return what it printed.

    ``procs`` is a memory limit's join file. Raises KmindError with the last line
    of its messages when it fails. When the caller is interrupted, the program
    is stopped before the exception goes on.
    """
    process = subprocess.Popen(
        under_limit(argv, procs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, messages = process.communicate()
    except BaseException:
        stop_process(process)
        raise
    if process.returncode:
        last = (messages.strip() or output.strip() or "no message").splitlines()[-1]
        raise KmindError(f"{Path(argv[0]).name} failed with status {process.returncode}: {last}")
    return output


def stop_process(process: "subprocess.Popen[str]", *, grace: float = 20.0) -> int:
    """Interrupt a process that we started, kill it after ``grace`` seconds; its status."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
