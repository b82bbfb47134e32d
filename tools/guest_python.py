# SPDX-License-Identifier: Apache-2.0
"""usage: guest_python.py list|copy REQUIREMENTS [FOLDER].

Lists the distributions of this environment that the requirements (separated by blanks) come down
to, or copies their files to a folder. kmind itself is left out: a guest gets its wheel.
"""

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# Their tests are a third of them.
WITHOUT_TESTS = {"scikit-learn", "scipy"}


def distributions(requirements: list[str]) -> list[importlib.metadata.Distribution]:
    """Return those that are here of what the requirements come down to, without kmind."""
    found: dict[str, importlib.metadata.Distribution | None] = {}
    done, ahead = set(), list(requirements)
    while ahead:
        if (line := ahead.pop()) in done:
            continue
        done.add(line)
        name, extras = parse(line)
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system, or an extra that nobody asked for
        ahead += needs(name, extras)
    found.pop("kmind", None)
    return [each for _, each in sorted(found.items()) if each]


def needs(name: str, extras: list[str]) -> Iterator[str]:
    """The requirements of a distribution with these extras."""
    for line in importlib.metadata.requires(name) or ():
        wanted, _, when = line.partition(";")
        asked = re.findall(r"extra\s*==\s*['\"]([^'\"]+)", when)
        if not asked or set(asked) & set(extras):
            yield wanted


def parse(requirement: str) -> tuple[str, list[str]]:
    """Return the name and the extras of a requirement."""
    match = re.match(r"\s*([\w.-]+)\s*(?:\[([^]]*)\])?", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[1]).lower(), re.split(r"\s*,\s*", match[2] or "")


def copy(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    """Copy the files of a distribution, but for byte code and what is installed elsewhere."""
    unwanted = {"__pycache__", ".."}
    if distribution.name in WITHOUT_TESTS:
        unwanted.add("tests")
    for path in distribution.files or ():
        if unwanted & set(path.parts):
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(path.locate()), target)


def main() -> None:
    """List or copy."""
    found = distributions(sys.argv[2].split())
    for each in found:
        if sys.argv[1] == "copy":
            copy(each, Path(sys.argv[3]))
        else:
            print(each.name, each.version)


main()
