# SPDX-License-Identifier: Apache-2.0
"""A file system of the process's own."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from extension_process import running
from runtime.sandbox.prisoner import READER

from kmind.bpf.landlock import landlock_version
from kmind.errors import NotSupportedError
from kmind.runtime.sandbox.confine import privileges
from kmind.runtime.sandbox.exit_codes import EXIT_SETUP
from kmind.runtime.sandbox.uids import free_uid

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.kernel()


def test_a_file_that_its_user_cannot_get_at_is_not_brought_into_reach(tmp_path: Path) -> None:
    """A mount would do that: a file that all may read, in a folder that is root's alone."""
    secret = tmp_path / "hidden"
    secret.mkdir(mode=0o700)
    (secret / "open").write_text("x")
    with running(tmp_path, files=(str(secret / "open"),)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("cannot be opened: Permission denied"))


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("network", [False, True])
def test_what_the_manifest_asks_for_and_no_more(tmp_path: Path, files: bool, network: bool) -> None:
    landlock_version()
    folder = tmp_path / "given"
    folder.mkdir()
    allowed = folder / "model"
    allowed.write_text("weights")
    for path in (allowed, folder, *tmp_path.parents, tmp_path):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)  # the extension's user has to get there
    with socket.create_server(("127.0.0.1", 0)) as server:
        params = {"allowed": str(allowed), "port": server.getsockname()[1]}
        given = (str(folder),) if files else ()
        with running(tmp_path, READER, params=params, files=given, network=network) as run:
            if network:
                server.settimeout(30)
                run.until(lambda: run.said("write: "))
                with server.accept()[0] as end:
                    end.sendall(b"hello")
            run.until(lambda: run.said("all tried"))
            run.alive()
    found = dict(line.split(": ", 1) for line in run.lines if ": " in line)
    assert found["read"] == "'weights'" if files else found["read"].startswith("refused")
    assert found["list"] == "['model']" if files else found["list"].startswith("refused")
    assert found["connect"] == "b'hello'" if network else found["connect"].startswith("refused")
    for never in ("write", "other", "unix", "listen"):
        assert found[never].startswith("refused"), never


def without_own_root(out: int, allowed: str) -> None:
    """In a process of its own: drop everything where no mount namespace can be made."""

    def refused(*_: object) -> None:
        raise NotSupportedError("no file system of its own: the test says so")

    os.dup2(out, 3)
    os.closerange(4, 1 << 16)  # an extension has few files, and its limit is low
    out = 3
    # The interpreter of the tests may be out of reach then, and nothing is imported here.
    reach = patch.object(privileges, "_in_reach", lambda libraries, lacking: [])
    with reach, patch.object(privileges, "enter_own_root", refused):
        fences = privileges.drop_privileges(free_uid(allowed), None, files=[allowed])
    privileges.shut(fences)
    words = [*fences.files, *fences.lacking]
    for path in (allowed, "/etc/passwd", "/"):
        for attempt in (os.stat, os.lstat, open):
            with suppress(OSError):
                attempt(path)
                words.append(f"{attempt.__name__} {path}")
    os.write(out, "\n".join(words).encode())


def test_sizes_and_times_are_not_told_without_a_file_system_of_its_own(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("x")
    for path in (allowed, *tmp_path.parents, tmp_path):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    end, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            without_own_root(out, str(allowed))
            os._exit(0)
        except BaseException as error:
            os.write(out, repr(error).encode())
            os._exit(1)
    os.close(out)
    with os.fdopen(end) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert said == (
        "no file system of its own: the test says so; files are refused altogether; "
        f"{allowed} cannot be read"
    )


def test_a_file_that_is_asked_for_and_absent(tmp_path: Path) -> None:
    with running(tmp_path, files=("/no/such/file",)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("sandbox.files: /no/such/file cannot be opened"))
