# SPDX-License-Identifier: Apache-2.0
"""The walk of docs/models.md, as it stands there: from a frame to a decision."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model_data import NAMES, features, labels

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def written(code: str) -> int:
    """Lines that a user has to write: neither empty nor comment."""
    lines = [line.strip() for line in code.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def table(folder: Path) -> None:
    x = features(6000)
    frame = pd.DataFrame(x.astype(int), columns=NAMES)
    frame.assign(slow=np.array(["no", "yes"])[labels(x, 2)]).to_csv(folder / "io.csv", index=False)


def test_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks()[0]
    assert written(code) < 30
    table(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    lost, said = capsys.readouterr().out.splitlines()
    assert float(lost.removesuffix(" points lost")) <= 0.5
    assert re.fullmatch(r"\[('(yes|no)'(, )?){5}\]", said)
    assert (tmp_path / "slow.kmodel").exists()
