# SPDX-License-Identifier: Apache-2.0
"""Treelite in a process of its own.

Its readers are C++ and do not survive every damaged file: one flipped byte in a LightGBM model can
end the process that reads it. So a child reads, with bounded memory and time, and hands over JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kmind.errors import ModelError
from kmind.infer.lazy import need

__all__ = ["read_model"]

_MEMORY = 4 << 30
_SECONDS = 120
_OUTPUT = 256 << 20


def read_model(kind: str, path: str | Path) -> dict[str, Any]:
    """Return treelite's JSON of a file; ``kind`` is ``lightgbm`` or ``xgboost``."""
    need("treelite")
    command = [sys.executable, "-m", __name__, kind, str(Path(path).absolute())]
    with tempfile.TemporaryFile() as out:
        try:
            child = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                timeout=2 * _SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ModelError("treelite does not finish with it") from None
        size = out.tell()
        out.seek(0)
        if child.returncode == 0 and size <= _OUTPUT:
            try:
                return dict(json.load(out))
            except (ValueError, RecursionError):
                raise ModelError("treelite cannot read it") from None
    if child.returncode != 1:
        raise ModelError("treelite died without a message; the file is damaged, or too large")
    words = child.stderr.decode("utf-8", "replace").splitlines() or [""]
    raise ModelError(f"treelite refuses it: {words[-1][:200]}")


def _main(kind: str, path: str) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    treelite = need("treelite")
    try:
        if kind == "lightgbm":
            model = treelite.frontend.load_lightgbm_model(path)
        else:
            model = treelite.frontend.load_xgboost_model(path, format_choice="json")
        sys.stdout.write(model.dump_as_json())
    except (treelite.TreeliteError, ValueError, MemoryError) as error:
        # Its first line: time, source line and condition in front of what is wrong.
        first = (str(error).splitlines() or [""])[0].partition("] ")[2]
        sys.stderr.write("\n" + (first.split(": ", 1)[-1] or type(error).__name__) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
