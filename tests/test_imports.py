# SPDX-License-Identifier: Apache-2.0
"""Holds the table of docs/architecture.md: who may import whom.

The table is read from the page itself. Arrows are transitive: what may import ``abi`` may also
import what ``abi`` may. A folder whose row says "public API only" gets no more than it names.
"""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "kmind"
PAGE = ROOT / "docs" / "architecture.md"


class Row(NamedTuple):
    what: str
    may: str


def table() -> dict[str, Row]:
    """Return the folders' rows of the page, in their order."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            name = cells[0].strip("`").removesuffix("/").removesuffix(".py")
            rows[name] = Row(cells[1], cells[2])
    return rows


ROWS = table()


def allowed(name: str) -> set[str]:
    """Return the folders that this one may import, itself included."""
    order = list(ROWS)
    may = ROWS[name].may
    if may == "everything":
        return set(order)
    if may == "nothing":
        return {name}
    if may.startswith("all above"):
        barred = {word.strip() for word in may.partition(" but ")[2].split(",")}
        return {name, *order[: order.index(name)]} - barred
    named = {word.strip() for word in may.split(",")}
    assert named <= set(order), f"{PAGE.name}: {name} may import {may}: not all are folders"
    if "public API only" in ROWS[name].what:
        return {name} | named
    return {name}.union(*map(allowed, named))


def owner(path: Path) -> str:
    """Return the folder of the table that a source belongs to; "" for kmind/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py").replace("__init__", "")


def imported(path: Path) -> list[tuple[int, str]]:
    """Return line and absolute name of each module that a source imports, lazily or not."""
    package = ["kmind", *path.relative_to(PACKAGE).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            # `from kmind import abi` names a folder only in its last word.
            names += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return names


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_folder_has_a_row() -> None:
    assert {owner(path) for path in SOURCES} - {""} <= set(ROWS)


def test_the_page_keeps_the_rules_that_safety_stands_on() -> None:
    assert "runtime" not in allowed("guard")
    assert allowed("abi") == {"abi", "errors"}
    assert allowed("modules") == {"modules", "extension", "errors", "driver"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    name = owner(path)
    may = allowed(name) if name else set()
    wrong = []
    for line, module in imported(path):
        top, _, rest = module.partition(".")
        folder = rest.partition(".")[0]
        if top == "kmind" and folder in ROWS and folder not in may:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, f"{name or 'kmind'} may import only {sorted(may)}"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if owner(path) == "modules"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_modules_need_only_the_public_interface(path: Path) -> None:
    own = [*path.relative_to(PACKAGE).parts[:2]]
    manifest = PACKAGE.joinpath(*own, "module.toml")
    named = tomllib.loads(manifest.read_text())["extension"] if manifest.exists() else {}
    others = {name.partition(".")[0] for name in named.get("imports", [])} - {"kmind"}
    for line, module in imported(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {module}"
        top, *rest = module.split(".")
        assert top in {"kmind", "numpy", *others} or top in sys.stdlib_module_names, where
        if top == "kmind" and rest[:2] != own:
            # kmind.extension.Name, never a module inside it.
            assert rest[0] in ("extension", "driver", "errors"), where
            assert len(rest) == 2, where
            assert not (PACKAGE / rest[0] / f"{rest[1]}.py").exists(), where


def module_name(path: Path) -> str:
    """Return the name by which a source is imported."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


def named(path: Path) -> list[tuple[str, Path, str]]:
    """Return, of each import of kmind's own, where it stands, the file, and the name from it."""
    found = []
    for line, name in imported(path):
        module, _, last = name.rpartition(".")
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if name in MODULES:
            found.append((where, MODULES[name], ""))
        elif module in MODULES:
            found.append((where, MODULES[module], last))
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_what_is_private_is_imported_in_its_own_folder_only() -> None:
    """A leading underscore says that nobody outside the folder imports it."""
    wrong = [
        where
        for path in SOURCES
        for where, target, name in named(path)
        if target != path
        and (
            is_private(name) or (is_private(target.stem) and not path.is_relative_to(target.parent))
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Lazy imports and those for types count: who reads one file of a circle reads all."""
    graph = {
        path: {target for _, target, _ in named(path) if target.stem != "__init__"} - {path}
        for path in SOURCES
    }
    TopologicalSorter(graph).prepare()


def test_no_rooms_of_runtime_import_each_other_in_a_circle() -> None:
    """A room is a folder of runtime/, or a file beside the folders."""
    runtime = PACKAGE / "runtime"
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        if not path.is_relative_to(runtime):
            continue
        room = path.relative_to(runtime).parts[0]
        targets = {target for _, target, _ in named(path) if target.is_relative_to(runtime)}
        rooms = {target.relative_to(runtime).parts[0] for target in targets}
        graph.setdefault(room, set()).update(rooms - {room, "__init__.py"})
    TopologicalSorter(graph).prepare()


# What the start of a command, or of the daemon, has no use for, and would wait for.
HEAVY = {"duckdb", "lightgbm", "onnx", "optuna", "pyarrow", "pydantic", "rich", "scipy", "sklearn"}
LATER = {"importlib.metadata", "kmind.evidence.chart", "kmind.infer", "kmind.learn"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("kmind.cli.daemon", HEAVY | LATER | {"numpy.random"}),
        ("kmind.cli.list", HEAVY | {"asyncio", "kmind.agent", "kmind.runtime", "numpy"}),
        ("kmind.cli.load", HEAVY | {"asyncio", "kmind.agent", "kmind.runtime", "numpy"}),
    ],
)
def test_a_start_imports_no_more_than_it_needs(module: str, unwanted: set[str]) -> None:
    code = f"import sys, kmind.cli.main, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & unwanted
