# SPDX-License-Identifier: Apache-2.0
"""Root reads a module's own files, and nothing that they only point to."""

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmind.errors import KmindError, ModuleError
from kmind.extension import find_module
from kmind.extension.files import MOST_SOURCES, read_beneath, read_sources, refuse_unplain
from kmind.extension.manifest.manifest import load_manifest
from kmind.runtime.instance.agent_factory import _object_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A module's folder beside a secret."""
    (tmp_path / "secret.py").write_text("SECRET = 1\n")
    (tmp_path / "secret.py").chmod(0o600)
    module = tmp_path / "module"
    (module / "parts").mkdir(parents=True)
    (module / "extension.py").write_text("A = 1\n")
    (module / "parts/more.py").write_text("B = 1\n")
    (module / "notes.txt").write_text("no source")
    return module


def test_sources_are_read_in_order(folder: Path) -> None:
    found = read_sources(folder)
    assert found == {"extension.py": b"A = 1\n", "parts/more.py": b"B = 1\n"}
    assert list(found) == sorted(found)
    assert read_beneath(folder, "parts/more.py") == b"B = 1\n"


def test_a_linked_folder_above_is_followed(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    assert read_sources(folder.parent / "link") == read_sources(folder)


@pytest.mark.parametrize("place", ["stolen.py", "parts/stolen.py"])
@pytest.mark.parametrize("leads_to", ["secret.py", "nowhere", "/etc/passwd", "module/extension.py"])
def test_linked_files_are_refused(folder: Path, place: str, leads_to: str) -> None:
    (folder / place).symlink_to(folder.parent / leads_to)
    with pytest.raises(ModuleError, match=f"{place} is a link, and root follows none"):
        read_sources(folder)
    with pytest.raises(ModuleError, match="is a link"):
        read_beneath(folder, place)


def test_linked_folders_are_refused_by_name_and_passed_over_in_search(folder: Path) -> None:
    (folder / "others").symlink_to(folder.parent)
    assert set(read_sources(folder)) == {"extension.py", "parts/more.py"}
    with pytest.raises(ModuleError, match=r"others/secret\.py is a link"):
        read_beneath(folder, "others/secret.py")


@pytest.mark.parametrize("path", ["../secret.py", "parts/../../secret.py", "."])
def test_paths_that_lead_out_are_refused(folder: Path, path: str) -> None:
    with pytest.raises((ModuleError, FileNotFoundError)):
        read_beneath(folder, path)


def test_a_second_name_of_a_secret_is_refused(folder: Path) -> None:
    os.link(folder.parent / "secret.py", folder / "stolen.py")
    with pytest.raises(ModuleError, match="has a second name elsewhere"):
        read_sources(folder)
    (folder.parent / "secret.py").chmod(0o644)  # as package managers link what is no secret
    assert read_sources(folder)["stolen.py"] == b"SECRET = 1\n"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_plain_file_is_not_even_opened(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open one may wait, as a pipe does, or do something, as a watchdog does."""
    odd = folder / "odd.py"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        monkeypatch.chdir(folder)  # its path may be too long for a socket's name
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("odd.py")
    elif os.geteuid() == 0:
        os.mknod(odd, stat.S_IFCHR | 0o644, os.makedev(1, 3))
    else:
        pytest.skip("makes a device, as only root may")
    opened: list[str] = []
    real = os.open

    def watched(path: str, *arguments: Any, **more: Any) -> int:
        opened.append(os.fspath(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", watched)
    with pytest.raises(ModuleError, match=r"odd\.py is not a regular file"):
        read_sources(folder)
    with pytest.raises(ModuleError, match=r"odd\.py is not a regular file"):
        read_beneath(folder, "odd.py")
    with pytest.raises(ModuleError, match=r"odd\.py is not a regular file"):
        refuse_unplain(odd)
    assert opened
    assert "odd.py" not in opened


def test_an_agent_that_is_a_link_or_a_pipe_is_refused(folder: Path) -> None:
    module = replace(find_module("readahead"), folder=folder)
    with pytest.raises(KmindError, match="is not compiled"):
        _object_path(module)
    module.object_path.symlink_to(folder / "extension.py")
    with pytest.raises(ModuleError, match="is a link, and root follows none"):
        _object_path(module)
    module.object_path.unlink()
    os.mkfifo(module.object_path)
    with pytest.raises(ModuleError, match="is not a regular file"):
        _object_path(module)


def test_an_agent_whose_twin_is_a_link_or_a_pipe_is_refused(folder: Path) -> None:
    module = replace(find_module("readahead"), folder=folder)
    module.object_path.touch()
    assert _object_path(module) == module.object_path
    twin = folder / "readahead.array.bpf.o"
    twin.symlink_to(folder / "extension.py")
    (folder / "extension.py").touch()
    with pytest.raises(ModuleError, match="is a link, and root follows none"):
        _object_path(module)
    twin.unlink()
    os.mkfifo(twin)
    with pytest.raises(ModuleError, match="is not a regular file"):
        _object_path(module)


def test_too_much_is_refused(folder: Path) -> None:
    with (folder / "extension.py").open("w") as file:
        file.truncate(MOST_SOURCES + 1)
    with pytest.raises(ModuleError, match="at most"):
        read_sources(folder)


def test_a_manifest_that_is_a_link(folder: Path) -> None:
    (folder / "module.toml").symlink_to("/etc/shadow")
    with pytest.raises(ModuleError, match=r"module\.toml is a link") as caught:
        load_manifest(folder / "module.toml")
    assert "root:" not in str(caught.value)
