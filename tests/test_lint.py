# SPDX-License-Identifier: Apache-2.0
"""Style, types and layout of every source. A tool that is absent is a skip; under CI, a failure."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON_LICENCE = "# SPDX-License-Identifier: Apache-2.0"
BPF_LICENCE = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
# As in the kernel, a header may be included where // is no comment.
LICENCES = {".c": [f"// {BPF_LICENCE}"], ".h": [f"/* {BPF_LICENCE} */", f"// {BPF_LICENCE}"]}
LONGEST = 600


def files(*patterns: str) -> list[Path]:
    """Return the project's own files whose names match, and nothing that was built."""
    folders = [ROOT / name for name in ("src", "tests", "docs", "bench", "tools", ".ci")]
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    found |= {path for folder in folders for pattern in patterns for path in folder.rglob(pattern)}
    return sorted(path for path in found if path.is_file() and "_build" not in path.parts)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


PYTHON = files("*.py")
PACKAGE = [path for path in PYTHON if path.is_relative_to(ROOT / "src")]
C = files("*.c", "*.h")
SHELL = [
    path
    for path in files("*.sh", "run")
    if path.suffix == ".sh" or path.read_text().startswith("#!/usr/bin/env bash")
]
TEXT = [*PYTHON, *C, *SHELL, *files("*.md", "*.toml", "*.yml", "*.yaml", "Makefile")]


def run(*command: str | Path) -> None:
    """Run a linter and fail with what it says; skip if it is not installed."""
    name, *arguments = map(str, command)
    # The tools of a virtual environment lie beside its Python.
    tool = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed; run `make setup`")
    result = subprocess.run(
        [tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.fail(result.stdout + result.stderr, pytrace=False)


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--quiet", *PYTHON)


def test_ruff_would_format_nothing() -> None:
    run("ruff", "format", "--check", "--quiet", "--diff", *PYTHON)


def test_mypy_strict() -> None:
    run("mypy", "--strict", "src")


def test_clang_format_would_change_nothing() -> None:
    run("clang-format-19", "--dry-run", "-Werror", *C)


def test_shellcheck() -> None:
    run("shellcheck", *SHELL)


def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    run("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "docs", tmp_path)


@pytest.mark.parametrize("path", [*PYTHON, *C, *SHELL], ids=label)
def test_licence_comes_first(path: Path) -> None:
    first, second, *_ = [*path.read_text().splitlines(), "", ""]
    licences = LICENCES.get(path.suffix, [PYTHON_LICENCE])
    assert (second if first.startswith("#!") else first) in licences


@pytest.mark.parametrize("path", [*PYTHON, *C, *SHELL], ids=label)
def test_no_file_wants_splitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_no_test_folder_is_a_package() -> None:
    """The folder tests is on the path: as a package, tests/queue would hide Python's own queue."""
    assert not files("tests/**/__init__.py")


@pytest.mark.parametrize(
    "path", [path for path in PACKAGE if path.stem == "__init__" or path.stem[0] != "_"], ids=label
)
def test_all_names_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text())
    declared = _declared(tree)
    if path.stem == "__init__" and not _names(tree):
        return  # only a docstring: nothing to name
    assert declared is not None, "no __all__"
    assert len(declared) == len(set(declared)), "a name stands twice in __all__"
    known = _names(tree) | {
        (alias.asname or alias.name)
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    submodules = (
        {child.stem for child in path.parent.iterdir()} if path.stem == "__init__" else set()
    )
    lazy = "__getattr__" in _names(tree)
    assert lazy or not set(declared) - known - submodules, "__all__ names what is not there"
    missing = {name for name in _names(tree) if not name.startswith("_")} - set(declared)
    assert not missing, "public, and not in __all__"


def _declared(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    return None


def _names(tree: ast.Module) -> set[str]:
    """Return the names that a module's own top level defines."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names - {"__all__", "__version__"}


# Places on the machine where something was written, and package registries, say nothing to a
# reader elsewhere.
FORBIDDEN = re.compile(
    r"(?<![\w./])/(?:work|root|home/\w+)/"
    r"|https?://[\w.-]*(?:pypi|pythonhosted|npmjs|deb\.|debian)"
    r"|\b(?:TODO|FIXME|XXX)\b"
)


@pytest.mark.parametrize("path", [path for path in TEXT if path != Path(__file__)], ids=label)
def test_no_forbidden_words(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not found
