# SPDX-License-Identifier: Apache-2.0
"""Loads that run until they are stopped, and count what they have done so far.

For what has to be measured while it goes on, as a search does. Each is made in a folder,
entered as a context, and gone at its end with all that it started; servers stay on a
unix socket.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from kmind.errors import KmindError, NotSupportedError
from kmind.util.files import make_folder
from kmind.util.packages import install_hint
from kmind.util.scratch import create_scratch, scratch_folder
from kmind.workloads.db_bench import build_database
from kmind.workloads.fio import lay_out_file
from kmind.workloads.host import (
    drop_caches,
    find_tool,
    memory_limit,
    need_space,
    stop_process,
    under_limit,
)

__all__ = ["LOADS", "Count", "Load", "start_load"]

Count = Callable[[], float]
"""Returns the work done by a load so far, in its unit."""

Load = Callable[[Path, bool], AbstractContextManager[Count]]
"""Started in a folder, small if asked for; inside the block it runs."""

_MIB = 1 << 20
_START_S = 30.0


@contextlib.contextmanager
def start_load(name: str, folder: Path, *, quick: bool = False) -> Iterator[Count]:
    """Run a load of ``LOADS`` inside the block. Raises NotSupportedError for what it lacks."""
    place = scratch_folder(scratch_folder(folder) / name)
    need_space(folder, 4 << 30)
    with LOADS[name](place, quick) as count:
        before, until = count(), time.monotonic() + _START_S
        while count() <= before:
            if time.monotonic() > until:
                raise KmindError(f"load {name} does nothing", hint=f"look into {place}")
            time.sleep(0.05)
        yield count


@contextlib.contextmanager
def _running(argv: list[str], log: Path, **how: object) -> Iterator[subprocess.Popen[str]]:
    with os.fdopen(create_scratch(log), "w") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, **how,
        )  # type: ignore[call-overload]  # fmt: skip
        try:
            yield process
        finally:
            stop_process(process, grace=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _alive(process: subprocess.Popen[str], log: Path) -> None:
    if process.poll() is not None:
        last = (log.read_text().strip().splitlines() or ["no message"])[-1]
        raise KmindError(f"{Path(str(process.args[0])).name} ended: {last}")  # type: ignore[index]


@contextlib.contextmanager
def _fio_fsync(folder: Path, quick: bool) -> Iterator[Count]:
    argv = [
        find_tool("fio"), "--name=load", f"--directory={folder}", "--rw=randwrite",
        f"--size={(128 if quick else 1024) * _MIB}", "--bs=4k", "--fsync=1", "--ioengine=psync",
        "--thread", "--numjobs=2", "--time_based", "--runtime=86400", "--fallocate=none",
    ]  # fmt: skip
    with _running(argv, folder / "log") as process:

        def count() -> float:
            _alive(process, folder / "log")
            return sum(_written(pid) for pid in _family(process.pid)) / 4096

        yield count


def _family(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += map(int, task.read_text().split())
    return pids


def _written(pid: int) -> int:
    # Bytes given to write(2) so far (proc(5)).
    with contextlib.suppress(OSError):
        match = re.search(r"^wchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
        return int(match[1]) if match else 0
    return 0


@contextlib.contextmanager
def _db_bench(folder: Path, quick: bool) -> Iterator[Count]:
    keys = 1_000_000 if quick else 8_000_000
    database = folder / f"db-{keys}"
    if not (database / "complete").exists():
        build_database(database, keys)
    report = folder / "report.csv"
    report.unlink(missing_ok=True)
    argv = [
        find_tool("db_bench"), f"--db={database}", f"--num={keys}",
        "--key_size=16", "--value_size=100", "--compression_type=none",
        "--benchmarks=readrandomwriterandom", "--readwritepercent=80", "--use_existing_db=1",
        "--duration=86400", "--threads=2", "--report_interval_seconds=1",
        f"--report_file={report}", "--seed=1", "--advise_random_on_open=0",
    ]  # fmt: skip
    with (
        memory_limit((256 if quick else 512) * _MIB) as procs,
        _running(under_limit(argv, procs), folder / "log") as process,
    ):

        def count() -> float:
            _alive(process, folder / "log")
            with contextlib.suppress(OSError):
                lines = report.read_text().splitlines()[1:]
                return sum(float(line.split(",")[1]) for line in lines if "," in line)
            return 0.0

        yield count


@contextlib.contextmanager
def _redis(folder: Path, quick: bool) -> Iterator[Count]:
    server = find_tool("redis-server")
    client = find_tool("redis-benchmark")
    place = str(folder / "socket")
    argv = [
        server, "--port", "0", "--unixsocket", place, "--dir", str(folder), "--appendonly", "yes",
        "--appendfsync", "always", "--save", "", "--daemonize", "no",
        "--auto-aof-rewrite-percentage", "0", "--maxmemory", "1gb",
        "--maxmemory-policy", "allkeys-random",
    ]  # fmt: skip
    with _running(argv, folder / "log") as process:
        _wait_for(lambda: Path(place).exists(), process, folder / "log")
        load = [
            client, "-s", place, "-t", "set", "-l", "-n", "100000", "-c", "16", "-d", "512",
            "-r", "1000000", "-q",
        ]  # fmt: skip
        with (
            _running(load, folder / "client.log"),
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.settimeout(10)
            connection.connect(place)
            with connection.makefile("rb") as answers:

                def count() -> float:
                    _alive(process, folder / "log")
                    connection.sendall(b"INFO stats\r\n")
                    text = answers.read(int(answers.readline()[1:]) + 2).decode()
                    return float(text.partition("total_commands_processed:")[2].split()[0])

                yield count
    for file in folder.glob("appendonlydir/*"):
        file.unlink()


_BUILD = """
import os, sys, mmap, struct
folder, counter = sys.argv[1:]
words = mmap.mmap(os.open(counter, os.O_RDWR), 8)
done = 0
text = b"int main(void) { return 0; }\\n" * 100
while True:
    for n in range(200):
        path = f"{folder}/{n}.c"
        with open(path + ".new", "wb") as file:
            file.write(text)
        os.rename(path + ".new", path)
        with open(path, "rb") as file, open(f"{folder}/{n}.o", "wb") as out:
            out.write(file.read()[::-1])
            out.flush()
            os.fsync(out.fileno())
        done += 1
        words[:] = struct.pack("<Q", done)
    for n in range(200):
        os.unlink(f"{folder}/{n}.o")
"""


_MEMORY = """
import os, random, struct, sys, mmap
size, counter = int(sys.argv[1]), sys.argv[2]
words = mmap.mmap(os.open(counter, os.O_RDWR), 8)
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, size, 4096):
    memory[page:page + 64] = bytes([page // 4096 % 251]) * 64
done, chance = 0, random.Random(1)
# A half of the touches go to an eighth of the pages. Were all alike, a group at its limit would
# now and then find no page that is old enough to swap, and be killed for want of memory.
while True:
    page = int(chance.random() ** 3 * (size // 4096)) * 4096
    memory[page] = (memory[page] + 1) % 256
    done += 1
    if not done % 16:
        words[:] = struct.pack("<Q", done)
"""


_FAULTS = """
import mmap, os, random, struct, sys
file, counter = sys.argv[1:]
words = mmap.mmap(os.open(counter, os.O_RDWR), 8)
memory = mmap.mmap(os.open(file, os.O_RDONLY), 0, prot=mmap.PROT_READ)
done, chance, pages = 0, random.Random(1), len(memory) // 4096
while True:
    memory[chance.randrange(pages) * 4096]
    done += 1
    if not done % 16:
        words[:] = struct.pack("<Q", done)
"""


@contextlib.contextmanager
def _counted(
    folder: Path, program: str, words: list[str], procs: Path | None = None
) -> Iterator[Count]:
    counter = folder / "count"
    with os.fdopen(create_scratch(counter), "wb") as file:
        file.write(b"\0" * 8)
    argv = under_limit([sys.executable, "-c", program, *words, str(counter)], procs)
    with _running(argv, folder / "log") as process:

        def count() -> float:
            _alive(process, folder / "log")
            return float(int.from_bytes(counter.read_bytes()[:8], "little"))

        yield count


@contextlib.contextmanager
def _build(folder: Path, quick: bool) -> Iterator[Count]:
    place = scratch_folder(folder / "files")
    with _counted(folder, _BUILD, [str(place)]) as count:
        yield count


@contextlib.contextmanager
def _zram(folder: Path, quick: bool) -> Iterator[Count]:
    name = next((n for n in ("zram0", "zram1") if _is_unused(n)), None)
    if name is None:
        raise NotSupportedError("no zram device is free", hint="modprobe zram")
    size = (128 if quick else 512) * _MIB
    with ExitStack() as stack:
        stack.callback(_write, name, "reset", "1")
        _write(name, "disksize", str(2 * size))
        for argv in (["mkswap", f"/dev/{name}"], ["swapon", "-p", "100", f"/dev/{name}"]):
            subprocess.run(argv, check=True, capture_output=True)
        stack.callback(subprocess.run, ["swapoff", f"/dev/{name}"], capture_output=True)
        procs = stack.enter_context(memory_limit(size // 2))
        yield stack.enter_context(_counted(folder, _MEMORY, [str(size)], procs))


@contextlib.contextmanager
def _mmap_random(folder: Path, quick: bool) -> Iterator[Count]:
    size = (256 if quick else 2048) * _MIB
    file = lay_out_file(folder, size)
    drop_caches()
    with (
        memory_limit(size // 4) as procs,
        _counted(folder, _FAULTS, [str(file)], procs) as count,
    ):
        yield count


def _is_unused(name: str) -> bool:
    state = Path(f"/sys/block/{name}/initstate")
    return state.exists() and state.read_text().strip() == "0"


def _write(name: str, file: str, text: str) -> None:
    Path(f"/sys/block/{name}/{file}").write_text(text)


@contextlib.contextmanager
def _pgbench(folder: Path, quick: bool) -> Iterator[Count]:
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not tools:
        raise NotSupportedError("postgresql is not installed", hint=install_hint("postgresql"))
    bin_ = tools[-1].parent
    account = pwd.getpwnam("postgres")
    # Its own folder is in ours: root writes no log where another user could put a link.
    own = folder / "postgres"
    make_folder(own, 0o700)
    os.chown(own, account.pw_uid, account.pw_gid, follow_symlinks=False)
    who: dict[str, object] = {
        "user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": own,
    }  # fmt: skip
    data = own / "data"
    if not (data / "PG_VERSION").exists():
        subprocess.run([bin_ / "initdb", "-D", data, "-A", "trust"], check=True,
                       capture_output=True, **who)  # type: ignore[call-overload]  # fmt: skip
    server = [str(bin_ / "postgres"), "-D", str(data), "-k", str(own), "-h", ""]
    client = str(bin_ / "pgbench")
    with _running(server, folder / "log", **who) as process:
        ready = [str(bin_ / "pg_isready"), "-h", str(own)]
        _wait_for(lambda: not subprocess.run(ready, capture_output=True).returncode,
                  process, folder / "log")  # fmt: skip
        subprocess.run([client, "-h", own, "-i", "-q", "-s", "5" if quick else "50", "postgres"],
                       check=True, capture_output=True, **who)  # type: ignore[call-overload]  # fmt: skip
        load = [
            client,
            "-h",
            str(own),
            "-c",
            "8",
            "-j",
            "2",
            "-T",
            "86400",
            "-P",
            "1",
            "postgres",
        ]
        log = folder / "client.log"
        with _running(load, log, **who) as bench:

            def count() -> float:
                _alive(bench, log)
                rates = re.findall(r"progress: [\d.]+ s, ([\d.]+) tps", log.read_text())
                return sum(map(float, rates))

            yield count


def _wait_for(done: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    until = time.monotonic() + _START_S
    while not done():
        _alive(process, log)
        if time.monotonic() > until:
            raise KmindError(f"a server does not start: see {log}")
        time.sleep(0.05)


LOADS: Mapping[str, Load] = {
    "fio-fsync": _fio_fsync,
    "db_bench": _db_bench,
    "pgbench": _pgbench,
    "redis": _redis,
    "zram": _zram,
    "build": _build,
    "mmap-random": _mmap_random,
}
"""By name; each with what it needs installed."""
