# SPDX-License-Identifier: Apache-2.0
"""The documentation names everything that a user can meet, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmind.abi import layout
from kmind.cli.registry import list_commands
from kmind.extension import list_modules

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


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


def _emits() -> Iterator[tuple[str, str, set[str], bool]]:
    """Each call that emits: where, the event, its fields, and whether it hands on others."""
    for path in (ROOT / "src/kmind/runtime").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr != "_emit" or not isinstance(node.args[0], ast.Constant):
                continue
            names = {word.arg for word in node.keywords if word.arg}
            more = any(word.arg is None for word in node.keywords)
            yield f"{path.name}:{node.lineno}", str(node.args[0].value), names, more


def _events() -> dict[str, set[str]]:
    """What the runtime emits: event to the fields that its calls name."""
    found: dict[str, set[str]] = {}
    for _, event, names, _ in _emits():
        found.setdefault(event, set()).update(names)
    return found


def test_an_event_has_the_same_fields_wherever_it_is_emitted() -> None:
    """Whoever reads a field that one of two calls leaves out fails only now and then."""
    events = _events()
    for where, event, names, more in _emits():
        if not more and event != "log":  # which names its count by what it counts
            assert names == events[event], where


def test_every_event_and_field_is_described() -> None:
    rows = _table((DOCS / "output.md").read_text(), "event")
    described = {name.strip("`"): set(re.findall(r"`(\w+)`", cell)) for name, cell in rows.items()}
    emitted = _events()
    assert set(described) == set(emitted)
    for name, fields in emitted.items():
        assert fields <= described[name], name
        if not any(extra in rows[f"`{name}`"] for extra in ("as `verdict`",)) and name not in (
            "verdict",
            "stop",
            "log",  # names its count by what it counts
        ):
            assert described[name] == fields, name


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
    rows = _table((DOCS / "architecture.md").read_text(), "verdict")
    described = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert described == {name.lower() for name in layout.VERDICT} - {"pending"}


def test_verdicts_stand_in_the_order_of_the_checks() -> None:
    """The table says that it follows the code: so does this."""
    source = (ROOT / "src/kmind/include/kmind/admission.h").read_text()
    check = source[source.index("km_check(const") :]
    order = re.findall(r"return KMIND_VERDICT_(\w+);", check[: check.index("\n}\n")])
    rows = list(_table((DOCS / "architecture.md").read_text(), "verdict"))
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
