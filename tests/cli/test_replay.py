# SPDX-License-Identifier: Apache-2.0
"""``kmind replay``: recordings and words that do not fit."""

from pathlib import Path
from typing import Any

import pytest
from learn.written import MODULE, values

from kmind.cli.main import main
from kmind.testing.recordings import made_windows, write_recording


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("blockio",), 1, "holds nothing of module blockio; it holds readahead@vda"),
        (("readahed",), 2, "did you mean 'readahead'?"),
        (("readahead", "patience=never"), 2, "patience"),
    ],
)
def test_wrong_words_are_one_line(
    tmp_path: Path, capfd: Any, words: tuple[str, ...], code: int, line: str
) -> None:
    write_recording(tmp_path / "out", MODULE, made_windows(values(3)))
    assert main(["replay", str(tmp_path / "out"), *words]) == code
    error = capfd.readouterr().err
    assert (line in error, error.count("\n")) == (True, 1)


def test_one_of_several_recordings_has_to_be_named(tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "out"
    for target in ("vda", "vdb"):
        write_recording(
            tmp_path / target, MODULE, made_windows(values(3)),
            instance=f"readahead@{target}", target=target,
        )  # fmt: skip
    folder.mkdir()
    for path in [*tmp_path.glob("vda/*"), *tmp_path.glob("vdb/*")]:
        path.rename(folder / f"{path.parent.name}-{path.name}")
    assert main(["replay", str(folder), "readahead"]) == 2
    assert "name the file of one of them" in capfd.readouterr().err
