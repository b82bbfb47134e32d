# SPDX-License-Identifier: Apache-2.0
"""Find riddles and long lines in docstrings, help texts and documentation.

``python tools/language.py`` prints the number of each, and fails if there is one; ``-v`` lists the
places. Each check returns a list of ``FILE:LINE: text``; ``tests/test_lint.py`` runs all of them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

# A text that begins so is a question in disguise: "What it returns", "Whether it runs".
OPENERS = re.compile(
    r"(?:What|Whether|How|Who|Whom|Whose|Which|Where|When|Why|Whatever|Whoever|Whichever)\b",
    re.IGNORECASE,
)

# Phrases that a reader has to solve, each with a plain one. See docs/glossary.md for the terms.
RIDDLES = {
    r"leave it away": "omit it",
    r"it is text; required": "required",
    r"is asked what": "name the question",
    r"we have set nothing": "no knobs have been set",
    r"what stands": "the current value",
    r"what stood": "the previous value",
}
_PHRASES = re.compile("|".join(RIDDLES), re.IGNORECASE)

# Keywords of the records that help texts, man pages and `kmind info` are made from.
_TEXTS = {"description", "help", "hint", "costs", "summary"}


def _sources() -> list[Path]:
    folders = ("src/kmind", "tests", "tools")
    found = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    return [*sorted(found), ROOT / "hatch_build.py"]


def _pages() -> list[Path]:
    names = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [*pages, *(ROOT / name for name in names)]


def _at(path: Path, line: int, text: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}"


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    # Texts that stand alone are docstrings of attributes.
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def docstring_riddles() -> list[str]:
    """List docstrings that begin with a question word."""
    return [
        _at(path, text.lineno, str(text.value))
        for path in _sources()
        for text in _docstrings(ast.parse(path.read_text()))
        if OPENERS.match(str(text.value))
    ]


def text_riddles() -> list[str]:
    """List help texts, summaries and hints, in Python and manifests, that begin so."""
    found = []
    for path in sorted((ROOT / "src/kmind").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg=str(name), value=ast.Constant(value=str(text))) if (
                    name in _TEXTS and OPENERS.match(text)
                ):
                    found.append(_at(path, node.value.lineno, text))
    for path in sorted((ROOT / "src/kmind").rglob("module.toml")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            name, _, text = line.partition(" = ")
            if name in _TEXTS and OPENERS.match(text.lstrip('"')):
                found.append(_at(path, number, text.strip('"')))
    return sorted(found)


def phrase_riddles() -> list[str]:
    """List uses of the phrases in ``RIDDLES``, in sources, manifests and documentation."""
    places = [*_sources(), *_pages(), *sorted((ROOT / "src/kmind").rglob("module.toml"))]
    return [
        _at(path, number, line)
        for path in places
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _PHRASES.search(line)
    ]


def long_lines() -> list[str]:
    """List lines of prose of over 100 columns.

    Code blocks and tables do not count, nor do the addresses of links.
    """
    found = []
    for path in _pages():
        fenced = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.lstrip().startswith("```"):
                fenced = not fenced
            prose = not (fenced or line.startswith(("    ", "|")))
            if prose and len(re.sub(r"\]\([^)]*\)", "]", line)) > WIDTH:
                found.append(_at(path, number, line))
    return found


def glossary_faults() -> list[str]:
    """List terms of the glossary that name no place, or one that does not exist."""
    glossary = ROOT / "docs/glossary.md"
    found = []
    at = 1
    for entry in glossary.read_text().split("\n\n"):
        if term := re.match(r"\s*\*\*(.+?)\*\*", entry):
            links, paths = _LINK.findall(entry), _PATH.findall(entry)
            faults = [_broken(page, heading) for page, heading in links]
            faults += ["" if (ROOT / name).exists() else f"no {name}" for name in paths]
            faults = faults or ["no page, and no folder"]
            found += [_at(glossary, at, f"{term[1]}: {fault}") for fault in faults if fault]
        at += entry.count("\n") + 2
    return found


_LINK = re.compile(r"\]\(([\w-]+\.md)?(?:#([\w-]+))?\)")
_PATH = re.compile(r"`((?:src|tools|docs)/[\w./-]*)`")


def _broken(page: str, heading: str) -> str:
    path = ROOT / "docs" / (page or "glossary.md")
    if not path.exists():
        return f"no page {page}"
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    # As MyST and GitHub make an anchor of a heading.
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    return "" if not heading or heading in anchors else f"no heading {heading} in {path.name}"


CHECKS = {
    "docstrings that begin with a question word": docstring_riddles,
    "help texts that begin with a question word": text_riddles,
    "riddles": phrase_riddles,
    "prose lines over 100 columns": long_lines,
    "faults in the glossary": glossary_faults,
}


def counts() -> dict[str, int]:
    """Return the number of places that each check finds."""
    return {name: len(check()) for name, check in CHECKS.items()}


def main() -> int:
    """Print the counts, and with ``-v`` the places; return 1 if there are any."""
    total = 0
    for name, check in CHECKS.items():
        found = check()
        total += len(found)
        print(f"{len(found):5} {name}")
        if "-v" in sys.argv[1:]:
            print(*(f"      {place}\n" for place in found), sep="", end="")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
