# SPDX-License-Identifier: Apache-2.0
"""The documentation names everything that a user can meet, and nothing else."""

import re
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
