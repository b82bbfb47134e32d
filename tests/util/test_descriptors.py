# SPDX-License-Identifier: Apache-2.0
"""Open files: all that the hard limit allows, and a clear refusal before they run out."""

import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import machine_lacks

from kmind.errors import KmindError
from kmind.util.descriptors import raise_soft_limit, refuse_where_short, take_descriptor


@pytest.fixture(autouse=True)
def limit() -> Iterator[int]:
    """The hard limit; the soft one is put back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_soft_limit_rises_to_the_hard_one(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit))
    raise_soft_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, limit)
    raise_soft_limit()


def test_too_few_descriptors_are_refused_before_they_run_out(limit: int) -> None:
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, limit))
    refuse_where_short(30, 20, "x@vda")
    with pytest.raises(KmindError, match=r"too few open files are allowed for x@vda: \d+ of \d+"):
        refuse_where_short(31, 20, "x@vda")


def test_a_descriptor_of_another_process_is_had_by_its_number() -> None:
    if os.geteuid():
        machine_lacks("root")
    with tempfile.TemporaryFile() as file:
        file.write(b"mine")
        file.flush()
        child = subprocess.Popen(["sleep", "1000"], pass_fds=(file.fileno(),))
        try:
            copy = take_descriptor(child.pid, file.fileno())
            assert os.pread(copy, 4, 0) == b"mine"
            os.close(copy)
            with pytest.raises(OSError, match="Bad file descriptor"):
                take_descriptor(child.pid, 900)
        finally:
            child.kill()
            child.wait()
        with pytest.raises(OSError, match="No such process"):
            take_descriptor(child.pid, file.fileno())
