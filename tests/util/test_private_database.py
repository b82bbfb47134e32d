# SPDX-License-Identifier: Apache-2.0
"""Databases that no other user can open, and so cannot lock."""

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kmind.errors import JournalError, KmindError, PrivilegeError
from kmind.guard import Journal
from kmind.runtime.evidence_store import EvidenceStore
from kmind.util.private_database import connect_private, connect_reader
from kmind.util.sqlite import is_database_there

PARTS = ("", "-wal", "-shm")
PLAIN_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

# Opens the index for reading, and locks the byte that each writer takes (WAL_WRITE_LOCK in
# https://sqlite.org/walformat.html), as any user could.
LOCK = """
import fcntl, os, struct, sys
fd = int(sys.argv[1])
fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 120, 1, 0))
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """As where nobody set it: the modes must not depend on it."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmind" / "some.db"


def made(path: Path) -> None:
    with closing(connect_private(path, patience_s=1)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (1)")


def modes(path: Path) -> dict[str, int]:
    files = {part: path.with_name(path.name + part) for part in PARTS}
    return {part: stat.S_IMODE(f.stat().st_mode) for part, f in files.items() if f.exists()}


def test_new_files_are_for_their_owner_alone(path: Path) -> None:
    with closing(connect_private(path, patience_s=1)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")
        assert modes(path) == {"": 0o600, "-wal": 0o600, "-shm": 0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", [Journal, EvidenceStore])
def test_what_was_open_to_others_is_repaired(
    path: Path, kind: type[Journal] | type[EvidenceStore]
) -> None:
    kind(path).close()
    with closing(sqlite3.connect(path)) as left:  # its log and index stay while it is open
        left.execute("BEGIN").close()
        left.execute("SELECT * FROM sqlite_master").fetchall()
        path.parent.chmod(0o755)
        for part in PARTS:
            path.with_name(path.name + part).chmod(0o644)
        with kind(path):
            assert modes(path) == {"": 0o600, "-wal": 0o600, "-shm": 0o600}
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_of_another_name_is_left_readable(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o775)
    connect_private(folder / "some.db", patience_s=1).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    aim = tmp_path / "aim"
    aim.write_bytes(b"")
    for part in PARTS:
        file = path.with_name(path.name + part)
        file.symlink_to(aim)
        with pytest.raises(KmindError, match="is not a regular file; move it away"):
            connect_private(path, patience_s=1)
        file.unlink()
    path.unlink()
    path.symlink_to(aim)
    with pytest.raises(JournalError, match="is not a regular file; move it away"):
        Journal(path)


def test_a_reader_makes_and_changes_nothing(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect_reader(path, patience_s=1)
    assert not path.parent.exists()
    made(path)
    path.chmod(0o640)
    with closing(connect_reader(path, patience_s=1)) as db:
        assert db.execute("SELECT n FROM t").fetchall() == [(1,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM t")
    assert modes(path)[""] == 0o640
    path.write_bytes(b"")
    with pytest.raises(JournalError, match="it is empty; it is left as it is"):
        Journal(path, read_only=True)


def as_plain_user(path: Path) -> int:
    """Return the table's number as a plain user reads it; -1 if that is refused."""
    child = os.fork()
    if child == 0:
        answer = 99
        try:
            os.setresuid(65534, 65534, 65534)
            with closing(connect_reader(path, patience_s=1)) as db:
                answer = db.execute("SELECT n FROM t").fetchone()[0]
        except PermissionError:
            answer = 98
        finally:
            os._exit(answer)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return -1 if status == 98 else status


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_plain_user_reads_a_copy_without_writing_to_its_folder() -> None:
    with tempfile.TemporaryDirectory() as name:  # every folder above lets them pass
        path = Path(name) / "some.db"
        made(path)
        Path(name).chmod(0o755)
        path.chmod(0o644)
        assert [file.name for file in Path(name).iterdir()] == [path.name]
        assert as_plain_user(path) == 1
        assert [file.name for file in Path(name).iterdir()] == [path.name]
        # What only stands in the log must not be missed in silence.
        path.with_name("some.db-wal").write_bytes(b"x" * 100)
        assert as_plain_user(path) == -1


def test_only_a_file_that_may_be_read_is_there(path: Path) -> None:
    assert not is_database_there(path, what="journal")
    made(path)
    assert is_database_there(path, what="journal")


@pytest.mark.kernel
def test_a_plain_user_is_told_whom_to_ask(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    path.parent.parent.chmod(0o755)
    os.seteuid(65534)
    try:
        for read_only in (False, True):
            with pytest.raises(PrivilegeError) as told:
                Journal(path, read_only=read_only)
            assert "members of the group kmind may ask the daemon" in str(told.value)
        with pytest.raises(PrivilegeError):
            is_database_there(path, what="journal")
    finally:
        os.seteuid(0)


@pytest.mark.kernel
def test_another_user_cannot_open_a_part(path: Path) -> None:
    with closing(connect_private(path, patience_s=1)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n)")
        path.parent.parent.chmod(0o755)
        path.parent.chmod(0o755)  # the files' own modes must do
        for part in PARTS:
            file = path.with_name(path.name + part)
            done = subprocess.run([*PLAIN_USER, "cat", file], capture_output=True, text=True)
            assert "Permission denied" in done.stderr


@pytest.mark.kernel
def test_a_lock_that_another_user_took_before_the_repair_stops_nobody(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("SELECT * FROM t").fetchall()
        for part in PARTS:
            path.with_name(path.name + part).chmod(0o644)
        fd = os.open(path.with_name(f"{path.name}-shm"), os.O_RDONLY)
        other = subprocess.Popen(
            [*PLAIN_USER, sys.executable, "-c", LOCK, str(fd)],
            pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        db.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            db.execute("INSERT INTO t VALUES (2)")
    os.close(fd)
    try:
        with closing(connect_private(path, patience_s=0.1)) as db:
            db.execute("INSERT INTO t VALUES (3)")
            assert db.execute("SELECT n FROM t").fetchall() == [(1,), (3,)]
    finally:
        other.communicate()


@pytest.mark.kernel
def test_what_a_command_of_root_writes_is_roots_alone() -> None:
    script = (
        "import os, sys; from kmind.cli.main import main; os.umask(0); "
        "sys.argv = ['kmind', '--version']; main(); print(oct(os.umask(0)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0o77"
