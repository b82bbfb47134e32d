# SPDX-License-Identifier: Apache-2.0
"""What docs/architecture.md names is there: folders, files, classes, functions."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "kmind"
TEXT = (ROOT / "docs" / "architecture.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"(?m)^    .*$", "", TEXT))

PATHS = sorted({name for name in CODE if re.fullmatch(r"[\w/]+(/|\.(py|h|c|md|toml|jsonl))", name)})
FUNCTIONS = sorted({name for name in CODE if re.fullmatch(r"[A-Z]\w+\.[a-z]\w+|km_\w+", name)})
CLASSES = sorted({name for name in CODE if re.fullmatch(r"([A-Z][a-z]+)+", name)})
# Of a module's author, not of kmind; and what the page says is not there.
ELSEWHERE = {"module.toml", "runtime/classes/"}


@cache
def defined() -> dict[str, set[str]]:
    """Return where each class and function is defined, as folders of the package."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        folder = f"{path.parent.relative_to(PACKAGE)}/"
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.setdefault(node.name, set()).add(folder)
            if isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.setdefault(f"{node.name}.{each.name}", set()).add(folder)
    for path in PACKAGE.glob("include/**/*.h"):
        for name in re.findall(r"\b(km_\w+)\(", path.read_text()):
            found.setdefault(name, set()).add("include/")
    return found


def rows() -> list[tuple[list[str], set[str]]]:
    """Return, of each row of the way, its functions and its folders."""
    table = TEXT[TEXT.index("## One recommendation") : TEXT.index("## How to add")]
    cells = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    numbered = [row for row in cells if row[0].strip().isdigit()]
    return [(re.findall(r"`([^`]+)`", r[2]), set(re.findall(r"`([^`]+)`", r[3]))) for r in numbered]


@pytest.mark.parametrize("name", sorted(set(PATHS) - ELSEWHERE))
def test_path_is_there(name: str) -> None:
    assert (ROOT / name).exists() or [*PACKAGE.rglob(name)]  # a row may name files of its folder


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_class_or_function_is_defined(name: str) -> None:
    assert name in defined()


@pytest.mark.parametrize("number", range(len(rows())))
def test_functions_of_the_way_are_in_the_folders_beside_them(number: int) -> None:
    functions, folders = rows()[number]
    assert functions
    assert folders
    for name in functions:
        assert defined()[name] & folders, f"{name} is in {defined()[name]}"
    assert folders == {f for name in functions for f in defined()[name] if f in folders}


def test_enough_is_found_to_test() -> None:
    assert len(PATHS) > 40
    assert len(FUNCTIONS) > 25
    assert len(rows()) >= 10


@pytest.mark.parametrize("part", ["", "agent/", "runtime/"])
def test_every_folder_has_a_row(part: str) -> None:
    folders = {
        f"{part}{path.name}/"
        for path in (PACKAGE / part).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert folders <= set(re.findall(r"(?m)^\| `([^`]+)` \|", TEXT))


def test_page_is_read_in_ten_minutes() -> None:
    """At 230 words a minute, tables and examples included."""
    assert len(re.findall(r"\w[\w'.-]*", TEXT)) < 2500
