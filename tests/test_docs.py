# SPDX-License-Identifier: Apache-2.0
"""The documentation names everything that a user can meet, and nothing else.

All that docs/architecture.md names is there: folders, files, classes, functions.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from kmind.abi import layout
from kmind.cli.registry import list_commands
from kmind.extension import list_modules

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "kmind"


def _table(text: str, first: str) -> dict[str, str]:
    """The rows of the table whose first column is headed ``first``: first cell to last."""
    rows: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not set(cells[0]) <= set("-:"):
            rows[cells[0]] = cells[-1]
    return rows


def test_every_command_is_described() -> None:
    # Those of benchmarks by what they measure; docs/commands.md has every one.
    found = [command for command in list_commands() if command.name != "bench"]
    commands = {each.name for command in found for each in (*command.commands, command)}
    assert len(commands) > 25
    readme = (ROOT / "README.md").read_text()
    missing = {name for name in commands if f"kmind {name}" not in readme and name != "demo"}
    assert not missing
    assert "make demo" in readme


def test_every_verdict_is_described() -> None:
    rows = _table((DOCS / "agents.md").read_text(), "verdict")
    described = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert described == {name.lower() for name in layout.VERDICT} - {"pending"}


def test_verdicts_stand_in_the_order_of_the_checks() -> None:
    """The table says that it follows the code: so does this."""
    source = (ROOT / "src/kmind/include/kmind/admission.h").read_text()
    check = source[source.index("km_check(const") :]
    order = re.findall(r"return KMIND_VERDICT_(\w+);", check[: check.index("\n}\n")])
    rows = list(_table((DOCS / "agents.md").read_text(), "verdict"))
    places = [rows.index(f"`{name.lower()}`") for name in dict.fromkeys(order)]
    assert places == sorted(places)


def test_every_account_is_described() -> None:
    text = (DOCS / "output.md").read_text()
    for name in layout.ACCOUNT.names or ():
        if name != "verdicts":
            assert f"`{name}`" in text, name


def test_every_schema_is_described() -> None:
    text = (DOCS / "output.md").read_text()
    for path in (ROOT / "src/kmind").rglob("*.py"):
        for schema in re.findall(r'"(kmind\.[a-z.]+/\d+)"', path.read_text()):
            assert f"`{schema}`" in text, f"{schema} in {path.name}"


def test_every_builtin_module_describes_itself() -> None:
    modules, broken = list_modules()
    assert not broken
    for module in modules:
        manifest = module.manifest
        assert all(parameter.help for parameter in manifest.parameters)
        assert all(hook.costs for hook in manifest.hooks), "each hook says what it costs to lack it"


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (DOCS / link).exists(), f"{page} links to {link}"


def test_the_readme_has_the_commands_that_ci_and_users_run() -> None:
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci/run").read_text()
    assert "make test" in readme
    assert "make test" in ci
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


# docs/architecture.md

PAGE_OF_PARTS = (DOCS / "architecture.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"(?m)^    .*$", "", PAGE_OF_PARTS))

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
    table = PAGE_OF_PARTS[
        PAGE_OF_PARTS.index("## One recommendation") : PAGE_OF_PARTS.index("## How to add")
    ]
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


@pytest.mark.parametrize("row", re.findall(r"(?m)^\| `([\w/]+/)` \| (.*)$", PAGE_OF_PARTS))
def test_classes_of_a_row_are_in_its_folder(row: tuple[str, str]) -> None:
    folder, text = row
    for name in {name for name in re.findall(r"`(\w+)`", text) if name in CLASSES}:
        assert [where for where in defined()[name] if where.startswith(folder)], name


def test_enough_is_found_to_test() -> None:
    assert len(PATHS) > 40
    assert len(FUNCTIONS) > 25
    assert len(rows()) >= 10


def test_every_folder_has_a_row() -> None:
    folders = {
        f"{path.relative_to(PACKAGE)}/"
        for path in PACKAGE.rglob("*")
        if path.is_dir() and path.name != "__pycache__"
    }
    # Rows of `cli/`, `knobs/`, `include/` and `modules/` speak of what is in them.
    inner = re.compile(r"(cli|knobs|include|modules)/.+")
    missing = {name for name in folders if not inner.match(name)}
    assert not missing - set(re.findall(r"(?m)^\| `([^`]+)` \|", PAGE_OF_PARTS))


def test_page_is_read_in_ten_minutes() -> None:
    """At 200 words a minute; names and examples are looked up, not read."""
    read = re.sub(r"`[^`\n]*`", "", re.sub(r"(?m)^    .*$", "", PAGE_OF_PARTS))
    assert len(re.findall(r"\w[\w'.-]*", read)) < 2000
