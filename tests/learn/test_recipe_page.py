# SPDX-License-Identifier: Apache-2.0
"""The recipe that docs/learning.md shows trains."""

import re
from pathlib import Path

import numpy as np

from kmind.extension import find_module
from kmind.learn.train import train
from kmind.testing.recordings import made_windows, write_recording

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"
MODULE = find_module("blockio")


def test_the_page_is_right(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope: dict[str, type] = {}
    exec(source, scope)
    recordings = []
    for n, (load, busy) in enumerate([("a", 1), ("b", 0), ("c", 1), ("d", 0)]):
        values = np.zeros((200, len(MODULE.manifest.features)))
        values[:, 0] = np.random.default_rng(n).poisson(50 if busy else 2, 200)
        recordings.append(
            write_recording(
                tmp_path / load,
                MODULE,
                made_windows(values),
                tags={"load": load, "busy": str(busy)},
            )
        )
    made = train(MODULE, scope["MyRecipe"](), recordings)
    assert made.classes == ("idle", "busy")
    assert made.card["rows"]["unseen"] == 400
    assert made.card["scores"]["unseen"]["model"]["balanced_accuracy"]["value"] > 0.95
    assert made.card["scores"]["unseen"]["rule"]["balanced_accuracy"]["value"] > 0.95
