# SPDX-License-Identifier: Apache-2.0
"""Loading an extension's class from source that is in memory already.

A process that has dropped its privileges may be unable to read the module's folder, so its files
are read before, and imported from memory. Everything else that the module needs is imported by
``import_early``, after the drop and before the interpreter's own folders are shut too.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec
from importlib.util import spec_from_loader
from types import CodeType, ModuleType
from typing import TypeVar

from kmind.errors import ModuleError
from kmind.extension._base import Extension
from kmind.extension.discovery._standard import ALLOWED_STANDARD

__all__ = [
    "import_early",
    "load_class",
    "load_extension",
    "refuse_other_imports",
    "refuse_own_imports",
]

_Base = TypeVar("_Base")


class _Sources(MetaPathFinder, InspectLoader):
    # Serves one module's package: its files, and empty packages where it has no __init__.py.

    def __init__(self, package: str, folder: str, sources: Mapping[str, bytes]) -> None:
        self._files: dict[str, tuple[str, bytes]] = {}
        self._packages = set(_prefixes(package))
        for path, source in sources.items():
            parts = [package, *path.removesuffix(".py").split("/")]
            if parts[-1] == "__init__":
                parts.pop()
                self._packages.add(".".join(parts))
            self._files[".".join(parts)] = f"{folder}/{path}", source
            self._packages.update(_prefixes(".".join(parts[:-1])))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._files and fullname not in self._packages:
            return None
        origin = self._files.get(fullname, ("", b""))[0] or None
        spec = spec_from_loader(fullname, self, origin=origin, is_package=self.is_package(fullname))
        if spec and origin:
            spec.has_location = True  # so that a traceback names the file
        return spec

    def is_package(self, fullname: str) -> bool:
        return fullname in self._packages

    def get_source(self, fullname: str) -> str:
        return self._files.get(fullname, ("", b""))[1].decode("utf-8")

    def exec_module(self, module: ModuleType) -> None:
        path, source = self._files.get(module.__name__, ("<package>", b""))
        exec(_compiled(source, path), module.__dict__)


@functools.lru_cache(maxsize=256)
def _compiled(source: bytes, path: str) -> CodeType:
    # A test loads the same module a thousand times.
    return compile(source, path, "exec", dont_inherit=True)


class _Refuser(MetaPathFinder):
    # Stands last: says why an import fails, instead of searching folders in vain.

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_allowed(fullname):
            why = "is none of the standard modules that an extension may import"
        else:
            why = (
                "cannot be imported any more: the sandbox is shut; "
                "add it to imports of [extension] in module.toml"
            )
        raise ModuleNotFoundError(f"{fullname} {why}", name=fullname)


def import_early(imports: Sequence[str], sources: Mapping[str, bytes]) -> None:
    """Import what the manifest names, and what the sources take from the standard library.

    This runs the code of those packages: the caller has dropped its privileges. Of the standard
    library only ``ALLOWED_STANDARD`` is imported. Raises ModuleError for a named package that is
    absent, that fails, or that is not allowed.
    """
    for name in imports:
        if not _is_allowed(name):
            raise ModuleError(
                f"extension.imports: {name} is none of the standard modules that an extension "
                "may import",
                hint="remove it from module.toml",
            )
        try:
            importlib.import_module(name)
        except BaseException as error:  # SystemExit too: it is no code of ours
            raise ModuleError(
                f"extension.imports: {name} cannot be imported: {_told(error)}",
                hint="install it, so that every user may read it, or remove it from module.toml",
            ) from None
    for name in sorted(filter(_is_allowed, _standard_imports(sources))):
        try:
            importlib.import_module(name)
        except Exception:
            continue  # "from x import y" where y is no module; what is wrong shows later


def refuse_other_imports() -> None:
    """From now on import nothing but what is loaded, built in, or in memory."""
    sources = [finder for finder in sys.meta_path if isinstance(finder, _Sources)]
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, *sources, _Refuser()]
    sys.path.clear()
    sys.path_importer_cache.clear()


def refuse_own_imports(package: str, provided: Iterable[str], imports: Sequence[str]) -> None:
    """Raise ModuleError if ``imports`` names code of the module's own distribution.

    That is its own ``package``, or one of the top-level packages that the distribution
    ``provided``. It would run beside the sources that the owner has read and checked.
    """
    own = {package.partition(".")[0], *provided} - {"kmind"}
    for name in imports:
        if name.partition(".")[0] in own or f"{name}.".startswith("kmind.modules."):
            raise ModuleError(
                f"extension.imports: {name} belongs to the module's own distribution",
                hint="put what the extension needs into the module's folder, and import it from "
                "there: from .name import ...",
            )


def _is_allowed(name: str) -> bool:
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names or top in ALLOWED_STANDARD


def _told(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"[:400]


def load_extension(
    package: str, folder: str, sources: Mapping[str, bytes], entry: str
) -> type[Extension]:
    """The class that ``entry`` (``file:Class``) names, imported from ``sources``.

    Runs the module's code. Raises ModuleError if there is no such class; what the
    code itself raises passes through.
    """
    return load_class(package, folder, sources, entry, Extension, "extension.entry")


def load_class(
    package: str,
    folder: str,
    sources: Mapping[str, bytes],
    entry: str,
    base: type[_Base],
    field: str,
) -> type[_Base]:
    """The class derived from ``base`` that ``entry`` names; ``field`` is where it does.

    As ``load_extension`` otherwise.
    """
    sys.meta_path.insert(0, _Sources(package, folder, sources))
    file, _, name = entry.partition(":")
    kind = getattr(importlib.import_module(f"{package}.{file}"), name, None)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ModuleError(
            f"{folder}/{file}.py has no class {name} derived from {_public(base)}",
            hint=f"correct {field} in module.toml",
        )
    return kind


def _public(kind: type) -> str:
    # Where authors import it from: kmind.extension, not kmind.extension._base.
    above = kind.__module__.rpartition(".")[0]
    known = getattr(sys.modules.get(above), kind.__name__, None) is kind
    return f"{above if known else kind.__module__}.{kind.__name__}"


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _standard_imports(sources: Mapping[str, bytes]) -> set[str]:
    names: set[str] = set()
    for source in sources.values():
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue  # said when it is imported
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.partition(".")[0] in sys.stdlib_module_names}
