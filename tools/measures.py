# SPDX-License-Identifier: Apache-2.0
"""Count how large and how tangled the sources are, and print one table.

``.venv/bin/python tools/measures.py`` counts this checkout; an argument names another one, such as
a folder that ``git archive`` was unpacked into. Everything is read from the syntax tree; nothing
of the measured sources is run.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent.parent
PROSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md")
PROSE_COLUMNS = 100


class Row(NamedTuple):
    """One measure: its name, its value, and what has the largest share of it."""

    name: str
    value: str
    detail: str = ""


class Tree:
    """The Python sources of one checkout; names of files are relative to the package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "src" / "kmind"
        self.files = sorted(self.package.rglob("*.py"))
        self.trees = {path: ast.parse(path.read_text(), str(path)) for path in self.files}

    def name(self, path: Path) -> str:
        """Return a file's name relative to the package."""
        return str(path.relative_to(self.package))

    def module(self, path: Path) -> str:
        """Return the dotted name that a file is imported by."""
        parts = path.relative_to(self.package.parent).with_suffix("").parts
        return ".".join(parts).removesuffix(".__init__")

    def imports(self, path: Path) -> Iterator[str]:
        """Yield the absolute dotted name of each import of a file, lazy ones and types too."""
        package = ["kmind", *path.relative_to(self.package).parts[:-1]]
        for node in ast.walk(self.trees[path]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                base = [*base, *([node.module] if node.module else [])]
                yield from (".".join([*base, alias.name]) for alias in node.names)

    @cached_property
    def edges(self) -> list[tuple[Path, Path, str]]:
        """Each import of kmind's own: from which file, which file, and which name of it."""
        modules = {self.module(path): path for path in self.files}
        found = []
        for path in self.files:
            for name in self.imports(path):
                module, _, last = name.rpartition(".")
                if name in modules:
                    found.append((path, modules[name], ""))
                elif module in modules:
                    found.append((path, modules[module], last))
        return [(source, target, name) for source, target, name in found if source != target]

    def classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        """Yield each class with its name, as ``file:Class``."""
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    yield f"{self.name(path)}:{node.name}", node


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected parts with more than one node (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            part = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(part)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def levels(graph: dict[str, set[str]]) -> int:
    """Return the length of the longest way through a graph; a circle counts as one node."""
    whole = {node: min(part) for part in circles(graph) for node in part}
    merged: dict[str, set[str]] = {}
    for node, targets in graph.items():
        own = whole.get(node, node)
        merged.setdefault(own, set()).update(whole.get(t, t) for t in targets)
        merged[own].discard(own)
    depth: dict[str, int] = {}
    for node in TopologicalSorter(merged).static_order():
        depth[node] = 1 + max((depth[target] for target in merged.get(node, ())), default=0)
    return max(depth.values(), default=0)


def file_rows(tree: Tree) -> Iterator[Row]:
    """Yield the largest folder of runtime/: files that are its own, without ``__init__``."""
    runtime = tree.package / "runtime"
    count: dict[Path, int] = {}
    for path in tree.files:
        if path.is_relative_to(runtime) and path.name != "__init__.py":
            count[path.parent] = count.get(path.parent, 0) + 1
    sizes = sorted(((number, tree.name(folder)) for folder, number in count.items()), reverse=True)
    yield Row("runtime/: most files in one folder", str(sizes[0][0]), sizes[0][1])


def room_rows(tree: Tree) -> Iterator[Row]:
    """Yield levels and arrows between runtime's rooms: a room is a folder, or a file beside them.

    Where all files lie in one folder, as they did, each file is a room.
    """
    runtime = tree.package / "runtime"

    def room(path: Path) -> str:
        return path.relative_to(runtime).parts[0].removesuffix(".py")

    graph: dict[str, set[str]] = {
        room(path): set()
        for path in tree.files
        if path.is_relative_to(runtime) and path.name != "__init__.py"
    }
    for source, target, _ in tree.edges:
        if source.is_relative_to(runtime) and target.is_relative_to(runtime):
            one, other = room(source), room(target)
            if one != other and "__init__" not in (one, other):
                graph[one].add(other)
    rooms = ", ".join(sorted(graph)) if len(graph) <= 20 else ""
    yield Row("runtime/: rooms", str(len(graph)), rooms)
    yield Row("runtime/: levels", str(levels(graph)))
    yield Row("runtime/: arrows between rooms", str(sum(map(len, graph.values()))))
    found = circles(graph)
    together = "; ".join(", ".join(sorted(part)) for part in found)
    yield Row("runtime/: circles of rooms", str(len(found)), together)


def import_rows(tree: Tree) -> Iterator[Row]:
    """Yield file circles and private imports across folders."""
    graph: dict[str, set[str]] = {tree.name(path): set() for path in tree.files}
    private = []
    for source, target, name in tree.edges:
        if target.stem != "__init__":
            graph[tree.name(source)].add(tree.name(target))
        hidden = name.startswith("_") and not name.startswith("__")
        outside = target.stem.startswith("_") and target.stem not in ("__init__", "__main__")
        if hidden or (outside and not source.is_relative_to(target.parent)):
            private.append(f"{tree.name(source)} imports {tree.name(target)}:{name}")
    found = circles(graph)
    together = "; ".join(", ".join(sorted(part)) for part in found)
    yield Row("file circles", str(len(found)), together)
    yield Row("private imports across folders", str(len(private)), "; ".join(private[:3]))


def class_rows(tree: Tree) -> Iterator[Row]:
    """Yield the largest class, and the constructor with most parameters.

    Methods without an underscore count, properties too; fields of a dataclass do not.
    """
    methods, lines, parameters = [], [], []
    for name, node in tree.classes():
        own = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        methods.append((sum(not each.name.startswith("_") for each in own), name))
        lines.append(((node.end_lineno or 0) - node.lineno + 1, name))
        for each in own:
            if each.name == "__init__":
                given = each.args
                count = len(given.posonlyargs + given.args + given.kwonlyargs) - 1
                parameters.append((count, name))
    for title, sizes, limit in (
        ("largest class: public methods", methods, 20),
        ("largest class: lines", lines, 400),
        ("most parameters of a constructor", parameters, 6),
    ):
        value, who = max(sizes)
        beyond = sum(size > limit for size, _ in sizes)
        yield Row(title, str(value), f"{who}; {beyond} beyond {limit}" if beyond else who)


def prose_rows(tree: Tree) -> Iterator[Row]:
    """Yield docstrings that begin with "What" or "Whether", and prose lines that are too long."""
    begun = []
    for path, parsed in tree.trees.items():
        for node in ast.walk(parsed):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and (ast.get_docstring(node) or "").startswith(("What", "Whether")):
                begun.append(f"{tree.name(path)}:{getattr(node, 'lineno', 1)}")
    yield Row('docstrings that begin with "What" or "Whether"', str(len(begun)), _some(begun))
    pages = [path for pattern in PROSE for path in sorted(tree.root.glob(pattern))]
    long = [
        f"{path.relative_to(tree.root)}:{number}"
        for path in pages
        for number, line in _prose(path.read_text())
        if len(line) > PROSE_COLUMNS
    ]
    yield Row(f"prose lines over {PROSE_COLUMNS} columns", str(len(long)), _some(long))


def _prose(text: str) -> Iterator[tuple[int, str]]:
    # Lines that could be broken: not of a table, of code, nor one long link.
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")) and not re.match(r"\S+$", line):
            yield number, line


def _some(places: list[str]) -> str:
    return ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")


def rows(tree: Tree) -> list[Row]:
    """Return all measures of a checkout."""
    parts = (file_rows, room_rows, import_rows, class_rows, prose_rows)
    return [row for part in parts for row in part(tree)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", nargs="?", type=Path, default=HERE)
    found = rows(Tree(parser.parse_args().checkout.resolve()))
    width = max(len(row.name) for row in found)
    for row in found:
        print(f"{row.name:{width}}  {row.value:>4}  {row.detail}".rstrip())


if __name__ == "__main__":
    main()
