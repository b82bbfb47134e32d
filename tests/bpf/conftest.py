# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from bpf.loaded import ADDRESS, SOURCES
from programs import program

from kmind.bpf import (
    BpfObject,
)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled programs of tests/bpf."""
    clang = program("clang-19")
    folder = tmp_path_factory.mktemp("objects")
    machine = {"x86_64": "x86", "aarch64": "arm64"}[os.uname().machine]
    flags = ["-g", "-O2", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"]
    flags += [f"-D__TARGET_ARCH_{machine}", f"-I/usr/include/{os.uname().machine}-linux-gnu"]
    for source in SOURCES.glob("*.bpf.c"):
        target = folder / source.name.replace(".c", ".o")
        subprocess.run([clang, *flags, "-c", source, "-o", target], check=True)
    return folder


@pytest.fixture
def pins() -> Iterator[Path]:
    """An empty folder in bpffs."""
    folder = Path("/sys/fs/bpf") / f"kmind-test-{uuid.uuid4().hex}"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def calls(objects: Path) -> Iterator[BpfObject]:
    with BpfObject(objects / "calls.bpf.o") as obj:
        yield obj


@pytest.fixture
def hooks(objects: Path) -> Iterator[BpfObject]:
    with BpfObject(objects / "hooks.bpf.o") as obj:
        obj.set_arena("arena", ADDRESS, 2)
        obj.set_rodata({"arena_base": ADDRESS, "watched_pid": os.getpid()})
        obj.load()
        yield obj
