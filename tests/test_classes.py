# SPDX-License-Identifier: Apache-2.0
"""Classes stay small: 20 public methods, 400 lines, 6 parameters of a constructor."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "src/kmind"


class Size(NamedTuple):
    """Size of a class; the limits are one, too."""

    methods: int
    lines: int
    parameters: int


MOST = Size(methods=20, lines=400, parameters=6)


def size_of(node: ast.ClassDef) -> Size:
    """Return how large a class is, and its constructor; a dataclass's fields do not count."""
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    methods += [each for each in node.body if isinstance(each, ast.AsyncFunctionDef)]  # type: ignore[misc]
    parameters = 0
    for each in methods:
        if each.name == "__init__":
            given = each.args
            parameters = len(given.posonlyargs + given.args + given.kwonlyargs) - 1
    public = [each for each in methods if not each.name.startswith("_")]
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    return Size(len(public), lines, parameters)


CLASSES = {
    f"{path.relative_to(PACKAGE)}:{node.name}": size_of(node)
    for path in sorted(PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef)
}


def within(size: Size, limit: Size) -> bool:
    return all(one <= most for one, most in zip(size, limit, strict=True))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_class_is_too_large(name: str) -> None:
    assert within(CLASSES[name], MOST), f"{CLASSES[name]} > {MOST}: split it by concept"
