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


def walk(folder: Path, monkeypatch: pytest.MonkeyPatch, *codes: str) -> None:
    table(folder)
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for code in codes:
        exec(compile(code, str(PAGE), "exec"), names)


def test_the_walk_is_short() -> None:
    assert sum(map(written, blocks())) < 30


def test_from_a_frame_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    walk(tmp_path, monkeypatch, blocks()[0])
    lost, said = capsys.readouterr().out.splitlines()
    assert float(lost.removesuffix(" points lost")) <= 0.5
    assert re.fullmatch(r"\[('(yes|no)'(, )?){5}\]", said)
    assert (tmp_path / "slow.kmodel").exists()


@pytest.mark.kernel("libbpf", "btf")
def test_from_a_frame_to_a_decision_in_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    walk(tmp_path, monkeypatch, *blocks())
    assert capsys.readouterr().out.splitlines()[-1] == "True"
