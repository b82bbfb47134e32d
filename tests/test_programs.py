# SPDX-License-Identifier: Apache-2.0
"""Programs and packages that tests use are installed by setup: a fresh machine has nothing else."""

import ast
import importlib.metadata
import itertools
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import installed_by_setup, missing

ROOT = Path(__file__).resolve().parent.parent
TESTS = sorted((ROOT / "tests").rglob("*.py"))
# Run inside of a guest, whose packages tools/guests.sh names.
GUEST = {"ip", "kmind", "modprobe", "python3", "systemctl", "tc"}
# Beside the virtual environment's Python; and one that is to be absent.
ELSEWHERE = GUEST | {"ruff", "sphinx-build", "no-such-tool"}
STARTERS = {"run", "Popen", "call", "check_call", "check_output"}
FINDERS = {"which", "program", "missing", "needs", "find_tool"}
# Of what is imported only where it is needed: kmind.infer.lazy, and pytest's own.
IMPORTERS = {"need", "importorskip", "import_module"}
OWN = {"kmind", "hatch_build", "readahead", "conftest"}


def first_words(node: ast.AST) -> Iterator[str]:
    """The program that a call starts or looks for, if its name stands there in so many words."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    words: list[ast.expr] = list(node.args) if name in FINDERS else []
    if name in STARTERS and node.args and isinstance(node.args[0], ast.List | ast.Tuple):
        words = node.args[0].elts[:1]
    for word in words[: None if name == "needs" else 1]:
        if isinstance(word, ast.Constant) and isinstance(word.value, str):
            yield word.value.rpartition("/")[2]


def lists(node: ast.AST) -> Iterator[str]:
    """The first word of a command that is put together first: ``command = ["losetup", ...]``."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and node.value.elts:
        target, word = node.targets[0], node.value.elts[0]
        named = isinstance(target, ast.Name) and target.id in (
            "command",
            "argv",
            "under",
            "unshare",
        )
        if named and isinstance(word, ast.Constant) and isinstance(word.value, str):
            yield word.value.rpartition("/")[2]


def test_every_program_that_tests_run_is_installed_by_setup() -> None:
    lacking = {}
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            for name in [*first_words(node), *lists(node)]:
                if name not in installed_by_setup() and name not in ELSEWHERE:
                    lacking[name] = f"{path.relative_to(ROOT)}:{node.lineno}"
    assert not lacking, "name the package in tools/setup.sh"


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="CI=true sets up all of them")
def test_under_ci_every_program_is_there() -> None:
    assert not [reason for name in installed_by_setup("programs") if (reason := missing(name))]


def test_every_package_that_is_imported_is_declared() -> None:
    """Not only there because another package asks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = list(itertools.chain.from_iterable(groups))
    declared = {re.split(r"[\[><=!~ ]", line)[0].lower().replace("_", "-") for line in lines}
    homes = importlib.metadata.packages_distributions()
    ours = {path.stem for path in [*TESTS, *(ROOT / "tools").glob("*.py")]} | OWN
    ours |= {path.name for path in (ROOT / "tests").iterdir()}
    undeclared = {}
    for path in [*TESTS, *(ROOT / "src").rglob("*.py"), ROOT / "hatch_build.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in IMPORTERS:
                names = [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
            for top in {name.partition(".")[0] for name in names}:
                if top in sys.stdlib_module_names or (top in ours and top not in homes):
                    continue
                found = {name.lower().replace("_", "-") for name in homes.get(top, [])}
                if not found & declared:
                    undeclared[top] = f"{path.relative_to(ROOT)}:{node.lineno}"
    assert not undeclared
