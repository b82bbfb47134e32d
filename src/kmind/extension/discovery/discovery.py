# SPDX-License-Identifier: Apache-2.0
"""Find modules: the administrator's, the vendor's, built-in ones, installed packages.

One name can exist in several places. The first of these counts, and lists the others that it hides.
Finding a module reads its manifest and runs none of its code, nor that of the packages above it:
this happens as root, and only for files that only root can change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

import kmind
from kmind.driver.agents import ready_agent
from kmind.errors import ModuleError
from kmind.extension.discovery.loader import refuse_own_imports
from kmind.extension.files import read_sources
from kmind.extension.manifest.manifest import Manifest, load_manifest
from kmind.extension.manifest.parameters import nearest
from kmind.paths import ADMIN, VENDOR
from kmind.util.trust import refuse_untrusted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ENTRY_POINTS", "MANIFEST", "MODULE_DIRS", "Module", "find_module", "list_modules"]

ENTRY_POINTS = "kmind.modules"
"""The entry point group in which other packages register theirs: name = package."""

MANIFEST = "module.toml"
"""File name of the manifest, in the module's folder."""

MODULE_DIRS = {
    "admin": ADMIN / "modules",
    "vendor": VENDOR / "modules",
    "built-in": Path(kmind.__file__).parent / "modules",
}
"""Origin to the folder of its modules' folders, the one that counts first."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_IMPORTED = frozenset({".py", ".pyc", ".so"})  # of what a distribution installs
_PACKAGES = {"built-in": "kmind.modules"}


@dataclass(frozen=True)
class Module:
    """A module that was found: its manifest, folder and dotted package name.

    ``origin`` is ``"admin"``, ``"vendor"``, ``"built-in"``, ``"folder"``, or the
    distribution that brought it. ``name`` is the one that it was found by.
    """

    manifest: Manifest
    folder: Path
    package: str
    origin: str
    name: str = ""

    @property
    def object_path(self) -> Path:
        """The compiled agent: the module's own, or the ready one of its kind of driver."""
        agent, driver = self.manifest.agent, self.manifest.driver
        if agent is None:
            assert driver is not None, "a manifest has one or the other"
            return ready_agent(driver.kind)[0]
        return self.folder / (agent.object.removesuffix(".c") + ".o")

    @cached_property
    def hides(self) -> tuple[str, ...]:
        """Modules of the same name that this one hides, each as "origin: folder or package"."""
        return tuple(map(str, list(_places(self.name))[1:])) if self.name else ()

    def sources(self) -> dict[str, bytes]:
        """All Python files below the folder: path relative to it, to content.

        Raises ModuleError for a link among them; see ``read_sources``.
        """
        return read_sources(self.folder)


@dataclass(frozen=True)
class _Place:
    # Place of a module of some name; ``folder`` is None if its package is gone.
    origin: str
    package: str
    folder: Path | None

    def __str__(self) -> str:
        return f"{self.origin}: {self.folder or self.package}"


def find_module(name: str) -> Module:
    """The module of that name, or in that folder if ``name`` has a slash in it.

    Raises ModuleError for an unknown name (with the nearest one), a bad manifest, and,
    for root, what somebody else could change. None of these falls back to another place.
    """
    if "/" in name:
        try:
            folder = Path(name).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise ModuleError(f"{name[:200]!r} is not a folder: {error}"[:400]) from None
        return _load(_Place("folder", f"kmind_modules.{folder.name}", folder))
    name = name.replace("-", "_")
    # The first is enough: to ask all distributions takes longer than all the rest.
    place = next(_places(name), None) if _NAME.fullmatch(name) else None
    if place is None:
        raise ModuleError(f"there is no module {name[:80]!r}", hint=nearest(name, _names()))
    return _load(place, name)


def list_modules() -> tuple[list[Module], dict[str, ModuleError]]:
    """All modules but those in folders of their own, and the errors of broken ones by name."""
    good: list[Module] = []
    broken: dict[str, ModuleError] = {}
    for name in _names():
        try:
            good.append(find_module(name))
        except ModuleError as error:
            broken[name] = error
    return good, broken


def _names() -> list[str]:
    names = {
        path.parent.name for root in MODULE_DIRS.values() for path in root.glob(f"*/{MANIFEST}")
    }
    return sorted(names.union(_canonical(point) for point in _points()))


def _places(name: str) -> Iterator[_Place]:
    for origin, root in MODULE_DIRS.items():
        if (root / name / MANIFEST).is_file():
            package = f"{_PACKAGES.get(origin, 'kmind_modules')}.{name}"
            yield _Place(origin, package, root / name)
    for point in sorted(_points(), key=_distribution):
        if _canonical(point) == name:
            yield _Place(_distribution(point), point.value, _locate(point.value))


def _points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # most modules are found without

    return entry_points(group=ENTRY_POINTS)


def _canonical(point: EntryPoint) -> str:
    return point.name.replace("-", "_")


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _load(place: _Place, found_by: str = "") -> Module:
    if place.folder is None:
        name = place.package.rpartition(".")[2]
        raise ModuleError(
            f"module {name}: {place.origin} registers the package {place.package}, "
            "and there is none",
            hint=f"install {place.origin} again",
        )
    folder = place.folder.resolve()
    try:
        if folder.is_dir() and place.origin != "built-in":
            refuse_untrusted(folder, ModuleError)
    except OSError as error:
        raise ModuleError(f"{folder}: cannot be looked at: {error.strerror}"[:400]) from None
    manifest = load_manifest(folder / MANIFEST)
    if manifest.name != place.package.rpartition(".")[2] and place.origin != "folder":
        raise ModuleError(
            f"{folder / MANIFEST}: name: {manifest.name!r}, and the package is {place.package}",
            hint="the last part of the package's name is the module's",
        )
    refuse_own_imports(place.package, _provided(place.origin), manifest.extension.imports)
    entry = manifest.extension.entry.partition(":")[0] + ".py"
    if not (folder / entry).is_file():
        raise ModuleError(f"{folder / MANIFEST}: extension.entry: there is no {folder / entry}")
    return Module(manifest, folder, place.package, place.origin, found_by)


def _provided(origin: str) -> set[str]:
    # Top-level names of what the distribution that brought a module installs.
    if origin in MODULE_DIRS or origin == "folder":
        return set()
    from importlib.metadata import PackageNotFoundError, files

    try:
        installed = files(origin) or []
    except PackageNotFoundError:
        return set()
    return {path.parts[0].partition(".")[0] for path in installed if path.suffix in _IMPORTED}


def _locate(package: str) -> Path | None:
    # As importlib.util.find_spec does, but without importing the packages above.
    path: list[str] | None = None
    prefix = ""
    for part in package.split("."):
        prefix = f"{prefix}.{part}" if prefix else part
        try:
            spec = _find_spec(prefix, path)
        except KeyError:
            # One without __init__.py: Python asks for the package above, and none is imported.
            path = [str(folder) for above in path or () if (folder := Path(above, part)).is_dir()]
            continue
        if spec is None or not spec.submodule_search_locations:
            return None
        path = list(spec.submodule_search_locations)
    return Path(path[0]) if path else None


def _find_spec(name: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if spec := finder.find_spec(name, path):
            return spec
    return None
