# SPDX-License-Identifier: Apache-2.0
"""Namespaces are found by name or process, and entered by one call alone."""

import os
import socket
from pathlib import Path

import pytest

from kmind.driver.net.namespace import Namespace
from kmind.errors import UsageError

OWN = Path("/proc/thread-self/ns/net")


def names() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


@pytest.mark.kernel
def test_a_call_is_in_the_namespace_and_its_caller_is_not() -> None:
    before = OWN.readlink()
    with Namespace.new() as space:
        assert space.call(names) == ["lo"]
        there = space.call(lambda: OWN.readlink())
        with pytest.raises(ZeroDivisionError):
            space.call(lambda: 1 // 0)
    assert before == OWN.readlink() != there


@pytest.mark.kernel
def test_one_is_found_by_the_id_of_a_process() -> None:
    with Namespace.find(str(os.getpid())) as space, Namespace.own() as own:
        assert os.fstat(space.fd).st_ino == os.fstat(own.fd).st_ino


@pytest.mark.kernel
def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, Path("/proc/self/ns/pid")):
        with pytest.raises(UsageError, match="is no network namespace"):
            Namespace.at(path)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "not-there", "99999999999"])
def test_a_name_that_is_none_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="namespace") as caught:
        Namespace.find(name)
    assert "\n" not in str(caught.value)
