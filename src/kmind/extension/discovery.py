# SPDX-License-Identifier: Apache-2.0
"""Where modules are found: built in, installed by others, or in a folder that is named.

Finding a module reads its manifest and runs none of its code, nor that of the
packages above it: this happens as root.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import kmind
from kmind.errors import ModuleError
from kmind.extension.manifest import Manifest, load_manifest
from kmind.extension.parameters import nearest

__all__ = ["ENTRY_POINTS", "MANIFEST", "Module", "find_module", "list_modules"]

ENTRY_POINTS = "kmind.modules"
"""The entry point group in which other packages register theirs: name = package."""

MANIFEST = "module.toml"
"""File name of the manifest, in the module's folder."""

_BUILT_IN = Path(kmind.__file__).parent / "modules"


@dataclass(frozen=True)
class Module:
    """A module that was found: its manifest, folder and dotted package name.

    ``origin`` is ``"built-in"``, ``"folder"``, or the distribution that brought it.
    """

    manifest: Manifest
    folder: Path
    package: str
    origin: str

    @property
    def object_path(self) -> Path:
        """The compiled agent."""
        return self.folder / (self.manifest.agent.object.removesuffix(".c") + ".o")

    def sources(self) -> dict[str, bytes]:
        """All Python files below the folder: path relative to it, to content."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*.py"))
        }


def find_module(name: str) -> Module:
    """The module of that name, or in that folder if ``name`` has a slash in it.

    Raises ModuleError for an unknown name (with the nearest one) or a bad manifest.
    """
    if "/" in name:
        folder = Path(name).resolve()
        return _load(folder, f"kmind_modules.{folder.name}", "folder")
    name = name.replace("-", "_")
    if (_BUILT_IN / name / MANIFEST).is_file():
        return _load(_BUILT_IN / name, f"kmind.modules.{name}", "built-in")
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in points:
        return _load_installed(points[name])
    raise ModuleError(
        f"there is no module {name!r}", hint=nearest(name, [*_built_in_names(), *points])
    )


def list_modules() -> tuple[list[Module], dict[str, ModuleError]]:
    """All modules but those in folders of their own, and the errors of broken ones by name."""
    points = [point.name for point in entry_points(group=ENTRY_POINTS)]
    good: list[Module] = []
    broken: dict[str, ModuleError] = {}
    for name in dict.fromkeys([*_built_in_names(), *sorted(points)]):
        try:
            good.append(find_module(name))
        except ModuleError as error:
            broken[name] = error
    return good, broken


def _built_in_names() -> list[str]:
    return sorted(path.parent.name for path in _BUILT_IN.glob(f"*/{MANIFEST}"))


def _load(folder: Path, package: str, origin: str) -> Module:
    manifest = load_manifest(folder / MANIFEST)
    if manifest.name != package.rpartition(".")[2] and origin != "folder":
        raise ModuleError(
            f"{folder / MANIFEST}: name: {manifest.name!r}, and the package is {package}",
            hint="the last part of the package's name is the module's",
        )
    entry = manifest.extension.entry.partition(":")[0] + ".py"
    if not (folder / entry).is_file():
        raise ModuleError(f"{folder / MANIFEST}: extension.entry: there is no {folder / entry}")
    return Module(manifest, folder, package, origin)


def _load_installed(point: EntryPoint) -> Module:
    folder = _locate(point.value)
    owner = point.dist.name if point.dist else "unknown"
    if folder is None:
        raise ModuleError(
            f"module {point.name}: {owner} registers the package {point.value}, and there is none",
            hint=f"install {owner} again",
        )
    return _load(folder, point.value, owner)


def _locate(package: str) -> Path | None:
    # As importlib.util.find_spec does, but without importing the packages above.
    path: list[str] | None = None
    prefix = ""
    for part in package.split("."):
        prefix = f"{prefix}.{part}" if prefix else part
        spec = _find_spec(prefix, path)
        if spec is None or not spec.submodule_search_locations:
            return None
        path = list(spec.submodule_search_locations)
    return Path(path[0]) if path else None


def _find_spec(name: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if spec := finder.find_spec(name, path):
            return spec
    return None
