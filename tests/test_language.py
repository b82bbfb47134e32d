# SPDX-License-Identifier: Apache-2.0
"""The checks of tools/language.py, which tests/test_lint.py runs on the project."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


language = _load(ROOT / "tools/language.py")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tool's view: a project with one file of each kind."""
    for folder in ("src/kmind", "tests", "tools", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "hatch_build.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(language, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""What it does."""', 1),
        ('def f():\n    """Whether it runs."""', 1),
        ('class C:\n    """Where it lies."""\n    x = 1\n    """How many."""', 2),
        ('"""Whatsoever."""', 0),
        ('"""Return what it does."""', 0),
        ('text = "What it does"', 0),
    ],
)
def test_docstring_riddles(root: Path, text: str, count: int) -> None:
    (root / "src/kmind/one.py").write_text(text)
    assert len(language.docstring_riddles()) == count


def test_text_riddles(root: Path) -> None:
    (root / "src/kmind/one.py").write_text('f(help="which one"); f(hint="see whom"); f(x="what")')
    (root / "src/kmind/module.toml").write_text(
        '[[parameter]]\nname = "a"\nhelp = "How long."\n[[hook]]\ncosts = "all"\n'
    )
    found = language.text_riddles()
    assert found == ["src/kmind/module.toml:3: How long.", "src/kmind/one.py:1: which one"]


def test_phrase_riddles(root: Path) -> None:
    line = f'hint = "{next(iter(language.RIDDLES)).capitalize()}"'
    (root / "tests/test_one.py").write_text(f"\n{line}\n")
    assert language.phrase_riddles() == [f"tests/test_one.py:2: {line}"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("word " * 30, 1),
        ("| " + "word " * 30 + "|", 0),
        ("```\n" + "word " * 30 + "\n```", 0),
        ("    " + "word " * 30, 0),
        ("- item\n  " + "word " * 30, 1),
        ("see [here](" + "word" * 30 + ")", 0),
        ("```\nx\n```\n" + "word " * 30, 1),
    ],
)
def test_long_lines(root: Path, text: str, count: int) -> None:
    (root / "docs/page.md").write_text(text)
    assert len(language.long_lines()) == count


def test_glossary_links(root: Path) -> None:
    (root / "docs/other.md").write_text("# Other\n\n## A part, of it\n")
    (root / "docs/glossary.md").write_text(
        "# Glossary\n\n"
        "**agent**: good. [other](other.md#a-part-of-it), `src/kmind/agent/`\n\n"
        "**arm**: no link.\n\n"
        "**lost**: [page](none.md), [part](other.md#none), `src/kmind/none/`\n"
    )
    (root / "src/kmind/agent").mkdir()
    found = language.glossary_faults()
    assert [line.partition(": ")[2] for line in found] == [
        "arm: no page, and no folder",
        "lost: no page none.md",
        "lost: no heading none in other.md",
        "lost: no src/kmind/none/",
    ]


def test_counts(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "docs/page.md").write_text("word " * 30)
    (root / "docs/glossary.md").touch()
    monkeypatch.setattr(sys, "argv", ["language.py", "-v"])
    assert language.main() == 1
    printed = capsys.readouterr().out
    assert "    1 prose lines over 100 columns\n      docs/page.md:1: word" in printed
    assert {name: count for name, count in language.counts().items() if count} == {
        "prose lines over 100 columns": 1
    }
    (root / "docs/page.md").write_text("word")
    assert language.main() == 0
