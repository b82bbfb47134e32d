# SPDX-License-Identifier: Apache-2.0
"""layout.py and enums.py are what their generator writes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from abi.headers import ABI, ENUMS, INCLUDE

from kmind.abi import layout
from kmind.abi.btf import Btf
from kmind.abi.generate import STRUCTS, render, render_enums


@pytest.mark.parametrize(("name", "made"), [("layout.py", render), ("enums.py", render_enums)])
def test_file_is_what_the_generator_writes(abi: Btf, name: str, made: Callable[[Btf], str]) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed; run `make setup`")
    command = [ruff, "format", "--stdin-filename", str(ABI / name), "-"]
    formatted = subprocess.run(command, input=made(abi), capture_output=True, text=True, check=True)
    assert (ABI / name).read_text() == formatted.stdout


def test_every_type_of_the_header_is_in_the_layout(abi: Btf) -> None:
    named = {name for name in abi.enums if name.startswith("kmind_")} - {"kmind_magic"}
    assert {f"kmind_{name.lower()}" for name in ENUMS} == named
    assert {name.upper() for name in STRUCTS} == {
        name for name in layout.__all__ if isinstance(getattr(layout, name), np.dtype)
    }
    header = (INCLUDE / "kmind" / "abi.h").read_text()
    declared = {
        line.split()[1]
        for line in header.splitlines()
        if line.startswith("struct ") and "{" in line
    }
    assert declared == {f"kmind_{name}" for name in STRUCTS}
