# SPDX-License-Identifier: Apache-2.0
"""The recipe that docs/learning.md shows trains."""

import re
from pathlib import Path

import numpy as np
from sample_module import MANIFEST, make_module

from kmind.cli.main import main
from kmind.extension import find_module
from kmind.infer import ModelFile
from kmind.testing.recordings import made_windows, write_recording

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"
BLOCKIO = find_module("blockio")


def test_the_page_is_right(tmp_path: Path) -> None:
    """In a module of its own, which learns from recordings of another one."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    train = '[train]\nentry = "recipe:MyRecipe"\nmodule = "blockio"\n\n[target]'
    module = make_module(tmp_path, manifest=MANIFEST.replace("[target]", train))
    (module / "recipe.py").write_text(source)
    data = tmp_path / "data"
    for n, (load, busy) in enumerate([("a", 1), ("b", 0), ("c", 1), ("d", 0)]):
        values = np.zeros((200, len(BLOCKIO.manifest.features)))
        values[:, 0] = np.random.default_rng(n).poisson(50 if busy else 2, 200)
        tags = {"load": load, "busy": str(busy)}
        write_recording(data / load, BLOCKIO, made_windows(values), tags=tags)
    out = tmp_path / "model"
    assert main(["train", str(module), str(data), "-o", str(out)]) == 0
    made = ModelFile.load(out)
    assert made.classes == ("idle", "busy")
    assert made.card["rows"]["unseen"] == 400
    for name in ("model", "rule"):
        assert made.card["scores"]["unseen"][name]["balanced_accuracy"]["value"] > 0.95
