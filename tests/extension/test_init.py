# SPDX-License-Identifier: Apache-2.0
"""The authors' API is complete, and costs an extension's process only what it needs."""

import subprocess
import sys

import pytest

from kmind import extension


def test_every_name_is_there() -> None:
    for name in extension.__all__:
        assert getattr(extension, name) is not None


def test_another_name_is_an_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Extention'"):
        exec("from kmind.extension import Extention")


def test_an_extension_does_not_bring_what_finds_modules() -> None:
    code = (
        "import sys\n"
        "from kmind.extension import Context, Dispatcher, Extension, KnobInfo, Value\n"
        "print(*sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "kmind.extension.context" in loaded
    assert not {"kmind.extension.discovery.discovery", "kmind.knobs", "importlib.metadata"} & set(
        loaded
    )
