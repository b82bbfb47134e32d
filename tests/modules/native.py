# SPDX-License-Identifier: Apache-2.0
"""An agent's C compiled for user space, where it needs nothing of the kernel."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from kmind.bench._infer_c import compiler

__all__ = ["INCLUDE", "compile_c"]

INCLUDE = Path(__file__).resolve().parents[2] / "src" / "kmind" / "include"


def compile_c(source: str, folder: Path) -> ctypes.CDLL:
    """A library of that source, which may include the agent library's headers."""
    code, library = folder / "native.c", folder / "native.so"
    code.write_text(source)
    command = [compiler(), "-O1", "-shared", "-fPIC", "-w", "-I", INCLUDE, code, "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))
