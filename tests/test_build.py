# SPDX-License-Identifier: Apache-2.0
"""Packages that ship: a complete sdist, and a wheel with objects, headers and no build paths."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def relative(pattern: str) -> set[str]:
    """Return the sources that match, named from the folder src."""
    source = ROOT / "src"
    return {str(path.relative_to(source)) for path in (source / "kmind").rglob(pattern)}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked; no object of this folder can help it."""
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder],
        cwd=ROOT,
        check=True,
    )
    (packed,) = folder.glob("kmind-*.tar.gz")
    shutil.unpack_archive(packed, folder)
    return folder / packed.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "-w", folder, sdist],
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_sdist_has_all_that_a_build_and_its_tests_need(sdist: Path) -> None:
    shipped = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(kept.stdout.splitlines()) <= shipped
    assert not [name for name in shipped if name.endswith(".o")]


def test_wheel_is_for_this_platform_and_any_python(wheel: Path) -> None:
    assert "-py3-none-linux_" in wheel.name


def test_wheel_has_objects_headers_and_sources(wheel: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    sources = relative("*.bpf.c")
    assert sources
    assert {name.removesuffix("c") + "o" for name in sources} <= shipped
    assert sources | relative("*.h") | relative("*.py") | relative("*.toml") <= shipped
    assert {name for name in shipped if "/licenses/" in name}
    assert any(name.endswith(".data/data/share/man/man1/kmind-run.1") for name in shipped)


def test_objects_keep_btf_and_lose_dwarf(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".bpf.o"):
                content = archive.read(name)
                assert b".BTF\0" in content, name
                assert b".debug_info" not in content, name


def test_nothing_tells_where_it_was_built(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for folder in (ROOT, sdist):
                assert str(folder).encode() not in archive.read(name), name


def test_a_wheel_for_arm64_is_built_here(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """Objects ordered as arm64 needs it, in both shapes; those beside the sources stay."""
    before = {path: path.read_bytes() for path in sdist.rglob("src/**/*.bpf.o")}
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist],
        check=True,
        env=os.environ | {"KMIND_BUILD_ARCH": "aarch64"},
    )
    (made,) = tmp_path.glob("*.whl")
    assert "-py3-none-linux_aarch64" in made.name
    assert {path: path.read_bytes() for path in sdist.rglob("src/**/*.bpf.o")} == before
    with zipfile.ZipFile(made) as arm64, zipfile.ZipFile(wheel) as own:
        objects = {name for name in own.namelist() if name.endswith(".bpf.o")}
        assert objects == {name for name in arm64.namelist() if name.endswith(".bpf.o")}
        agents = [name for name in objects if name.endswith(".array.bpf.o")]
        assert agents
        for name in agents:
            assert arm64.read(name) != own.read(name)


def test_nothing_is_compiled_twice() -> None:
    """Run by hand, the hook leaves alone what is up to date, and needs no hatchling."""
    command = [sys.executable, "-S", ROOT / "hatch_build.py"]
    subprocess.run(command, check=True)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stderr == ""


def test_a_changed_header_compiles_again(sdist: Path, wheel: Path) -> None:
    """The wheel left fresh objects beside the sdist's sources."""
    objects = list(sdist.rglob("src/**/*.bpf.o"))
    assert objects
    before = {path: path.stat().st_mtime_ns for path in objects}
    (sdist / "src/kmind/include/kmind/abi.h").touch()
    subprocess.run([sys.executable, "-S", sdist / "hatch_build.py"], check=True)
    assert all(path.stat().st_mtime_ns > before[path] for path in objects)


def test_no_clang_is_one_clear_line(sdist: Path, tmp_path: Path) -> None:
    (sdist / "src/kmind/include/kmind/abi.h").touch()
    result = subprocess.run(
        [sys.executable, "-S", sdist / "hatch_build.py"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "clang" in result.stderr
    assert "install" in result.stderr
    assert len(result.stderr.splitlines()) == 1
