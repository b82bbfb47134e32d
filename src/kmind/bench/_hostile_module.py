# SPDX-License-Identifier: Apache-2.0
"""Readahead's agent under a hostile extension, as a module of its own: what benches attack with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from kmind.extension import find_module

__all__ = ["write_hostile_module"]


def write_hostile_module(folder: Path, parameters: str, extension: str) -> Path:
    """Write the module "hostile" below a folder; where it is.

    ``parameters`` is TOML that is added to its manifest, and ``extension`` the file beside this one
    that has its class ``Hostile``.
    """
    built_in = find_module("readahead")
    module = folder / "hostile"
    module.mkdir(mode=0o755)
    shutil.copy(built_in.object_path, module)
    text = (built_in.folder / "module.toml").read_text()
    text = text.replace('name = "readahead"', 'name = "hostile"', 1)
    text = re.sub(r"^aliases = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\[train\]\nentry = .*\n", "", text, flags=re.MULTILINE)
    text = text.replace("extension:Readahead", "extension:Hostile")
    (module / "module.toml").write_text(text + parameters)
    shutil.copy(Path(__file__).with_name(extension), module / "extension.py")
    return module
