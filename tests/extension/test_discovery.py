# SPDX-License-Identifier: Apache-2.0
"""Modules are found by name, by folder and through entry points, and none of them is run."""

import sys
from pathlib import Path

import pytest

from kmind.errors import ModuleError
from kmind.extension import find_module, list_modules

MANIFEST = """\
name = "{name}"
version = "1"
class = "detector"
description = "Does nothing."
author = "-"
licence = "Apache-2.0"
agent = {{object = "none.bpf.c"}}
extension = {{entry = "extension:Nothing"}}
target = {{kind = "system"}}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: one good module, one without its package."""
    package = tmp_path / "outside"
    module = package / "quiet"
    module.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("raise SystemExit('discovery ran this')\n")
    module.joinpath("__init__.py").write_text("raise SystemExit('discovery ran this')\n")
    module.joinpath("extension.py").write_text("raise SystemExit('discovery ran this')\n")
    module.joinpath("module.toml").write_text(MANIFEST.format(name="quiet"))
    info = tmp_path / "outside-1.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1\n")
    info.joinpath("entry_points.txt").write_text(
        "[kmind.modules]\nquiet = outside.quiet\nghost = outside.ghost\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_installed(site: Path) -> None:
    module = find_module("quiet")
    assert module.manifest.name == "quiet"
    assert module.folder == site / "outside" / "quiet"
    assert (module.package, module.origin) == ("outside.quiet", "outside")
    assert module.object_path == site / "outside" / "quiet" / "none.bpf.o"
    assert set(module.sources()) == {"__init__.py", "extension.py"}
    assert "outside" not in sys.modules


def test_list_keeps_the_good_and_names_the_broken(site: Path) -> None:
    good, broken = list_modules()
    assert "quiet" in [module.manifest.name for module in good]
    assert list(broken) == ["ghost"]
    assert "outside registers the package outside.ghost, and there is none" in str(broken["ghost"])


def test_folder(site: Path) -> None:
    module = find_module(f"{site}/outside/quiet")
    assert (module.package, module.origin) == ("kmind_modules.quiet", "folder")


def test_unknown_has_the_nearest(site: Path) -> None:
    with pytest.raises(ModuleError, match="no module 'quite'; did you mean 'quiet'"):
        find_module("quite")


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"module\.toml: No such file"):
        find_module(f"{tmp_path}/nothing")


def test_name_differs_from_package(site: Path) -> None:
    (site / "outside/quiet/module.toml").write_text(MANIFEST.format(name="loud"))
    with pytest.raises(ModuleError, match="name: 'loud', and the package is outside"):
        find_module("quiet")


def test_entry_without_file(site: Path) -> None:
    (site / "outside/quiet/extension.py").unlink()
    with pytest.raises(ModuleError, match=r"extension\.entry: there is no .*extension\.py"):
        find_module("quiet")
