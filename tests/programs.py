# SPDX-License-Identifier: Apache-2.0
"""The programs that tests run: which package has each, and a skip with the reason without it.

A test says ``@pytest.mark.needs("bpftool")``; a helper calls ``program("bpftool")``. Both skip,
and under CI fail, where it is absent: ``make setup`` installs all of them. What a machine lacks
that no package brings, a device say, is told by ``machine_lacks``, a skip under CI too.
"""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["Lacking", "installed_by_setup", "machine_lacks", "missing", "program"]

_SETUP = Path(__file__).resolve().parent.parent / "tools/setup.sh"
# Root's tools are not on everybody's path.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


class Lacking(pytest.skip.Exception):
    """A skip for what this machine cannot do."""


@cache
def installed_by_setup(*lists: str) -> dict[str, str]:
    """Each program that tools/setup.sh names, with its Debian package.

    Of these of its lists; without one, of what tests use: "programs" and "for_guests".
    """
    text = _SETUP.read_text()
    rows = [
        row
        for name in lists or ("programs", "for_guests")
        for row in text[text.index(f'\n{name}="') :].split('"')[1].splitlines()
    ]
    return {
        name: package
        for package, *names in map(str.split, filter(str.strip, rows))
        for name in names
    }


def missing(name: str) -> str:
    """Return the reason why a program cannot be run, or "".

    Raises LookupError for one that setup does not install.
    """
    package = installed_by_setup()[name]
    if shutil.which(name, path=_PATH):
        return ""
    return f"{name} is not installed; run `make setup`, which installs {package}"


def program(name: str) -> str:
    """The path of a program; skips the test if it is absent."""
    if reason := missing(name):
        pytest.skip(reason)
    found = shutil.which(name, path=_PATH)
    assert found
    return found


def machine_lacks(what: str) -> NoReturn:
    """Skip, for good reason: this kernel or this machine has no such thing."""
    raise Lacking(what, allow_module_level=True)
