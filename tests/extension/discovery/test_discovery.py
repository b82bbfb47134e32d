# SPDX-License-Identifier: Apache-2.0
"""Modules are found by name, by folder and through entry points, and none of them is run."""

import sys
from pathlib import Path

import pytest

from kmind.errors import ModuleError
from kmind.extension import find_module, list_modules
from kmind.extension.discovery import discovery

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


@pytest.mark.parametrize("name", ["..", ".", "", "a\0b", "x" * 5000, "Quiet", "quiet.", "é"])
def test_what_can_be_no_name(name: str) -> None:
    with pytest.raises(ModuleError, match="there is no module"):
        find_module(name)


@pytest.mark.parametrize("name", ["./a\0b", "./" + "x" * 5000, "/dev/null", "/"])
def test_what_can_be_no_folder(name: str) -> None:
    with pytest.raises(ModuleError):
        find_module(name)


@pytest.mark.parametrize("name", ["outside", "outside.quiet", "beside", "native", "old"])
def test_imports_of_its_own_distribution_are_refused(site: Path, name: str) -> None:
    """They would run beside the sources that were read and checked."""
    files = ["beside.py", "native.cpython-311-x86_64-linux-gnu.so", "old.pyc"]
    record = "".join(f"{name},,\n" for name in ["outside/__init__.py", *files])
    (site / "outside-1.dist-info/RECORD").write_text(record)
    for file in files:
        (site / file).touch()  # Python 3.12 and later leave out what is not there
    manifest = site / "outside/quiet/module.toml"
    text = manifest.read_text()
    manifest.write_text(text.replace(':Nothing"', f':Nothing", imports = ["{name}"]'))
    with pytest.raises(ModuleError, match=f"{name} belongs to the module's own distribution"):
        find_module("quiet")
    assert "outside" not in sys.modules


@pytest.mark.parametrize("name", ["", ".up", "a b", "os;", "a..b", "../x", "x" * 300])
def test_imports_that_are_no_names(site: Path, name: str) -> None:
    manifest = site / "outside/quiet/module.toml"
    text = manifest.read_text()
    manifest.write_text(text.replace(':Nothing"', f':Nothing", imports = ["{name}"]'))
    with pytest.raises(ModuleError, match=r"module\.toml:\d+: extension\.imports"):
        find_module("quiet")


def test_in_packages_without_init(site: Path) -> None:
    """Modules in packages that nobody imported are found all the same."""
    below = site / "deep" / "down"
    below.mkdir(parents=True)
    site.joinpath("outside", "quiet").rename(below / "quiet")
    info = site / "outside-1.dist-info" / "entry_points.txt"
    info.write_text("[kmind.modules]\nquiet = deep.down.quiet\n")
    module = find_module("quiet")
    assert (module.folder, module.package) == (below / "quiet", "deep.down.quiet")
    assert "deep" not in sys.modules


def test_dashes_of_an_entry_point(site: Path) -> None:
    info = site / "outside-1.dist-info" / "entry_points.txt"
    (site / "outside" / "quiet").rename(site / "outside" / "very_quiet")
    (site / "outside" / "very_quiet" / "module.toml").write_text(MANIFEST.format(name="very_quiet"))
    info.write_text("[kmind.modules]\nvery-quiet = outside.very_quiet\n")
    assert find_module("very-quiet").manifest.name == "very_quiet"
    assert "very_quiet" in [module.manifest.name for module in list_modules()[0]]


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


def place(root: Path, name: str) -> Path:
    """Write a module below the folder of an origin."""
    folder = root / name
    folder.mkdir(parents=True)
    folder.joinpath("extension.py").write_text("raise SystemExit('discovery ran this')\n")
    folder.joinpath("module.toml").write_text(MANIFEST.format(name=name))
    return folder


@pytest.fixture
def dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders of the administrator and the vendor, beside the built-in ones."""
    found = {name: tmp_path / name for name in ("admin", "vendor")}
    found["built-in"] = discovery.MODULE_DIRS["built-in"]
    monkeypatch.setattr(discovery, "MODULE_DIRS", found)
    return found


def test_the_places_are_those_of_the_documentation() -> None:
    places = [str(path) for path in discovery.MODULE_DIRS.values()]
    assert places[:2] == ["/etc/kmind/modules", "/usr/lib/kmind/modules"]


def test_admin_before_vendor_before_built_in_before_installed(
    site: Path, dirs: dict[str, Path]
) -> None:
    installed = f"outside: {site}/outside/quiet"
    assert find_module("quiet").hides == ()
    vendor = place(dirs["vendor"], "quiet")
    found = find_module("quiet")
    assert (found.folder, found.origin, found.hides) == (vendor, "vendor", (installed,))
    assert found.package == "kmind_modules.quiet"
    admin = place(dirs["admin"], "quiet")
    found = find_module("quiet")
    assert (found.folder, found.origin) == (admin, "admin")
    assert found.hides == (f"vendor: {vendor}", installed)
    assert [each.folder for each in list_modules()[0] if each.manifest.name == "quiet"] == [admin]
    place(dirs["admin"], "readahead")
    built_in = dirs["built-in"] / "readahead"
    assert find_module("readahead").hides == (f"built-in: {built_in}",)


def test_a_broken_one_does_not_give_way_to_another(dirs: dict[str, Path]) -> None:
    place(dirs["vendor"], "quiet")
    place(dirs["admin"], "quiet").joinpath("extension.py").unlink()
    with pytest.raises(
        ModuleError, match=r"admin/quiet/module\.toml: extension\.entry: there is no"
    ):
        find_module("quiet")
    assert "quiet" in list_modules()[1]


def test_a_name_that_differs_from_its_folder(dirs: dict[str, Path]) -> None:
    place(dirs["admin"], "quiet").joinpath("module.toml").write_text(MANIFEST.format(name="loud"))
    with pytest.raises(ModuleError, match=r"name: 'loud', and the package is kmind_modules\.quiet"):
        find_module("quiet")


def test_links_are_resolved(dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = place(tmp_path / "elsewhere", "quiet")
    dirs["admin"].mkdir()
    (dirs["admin"] / "quiet").symlink_to(folder)
    assert find_module("quiet").folder == folder
