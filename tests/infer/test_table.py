# SPDX-License-Identifier: Apache-2.0
"""Tables of rows, as spreadsheets and libraries save them."""

import csv
from pathlib import Path

import pytest
from infer.agreed import imported

from kmind.errors import ModelError
from kmind.infer import (
    from_lightgbm,
)
from kmind.infer.table import read_table


def test_names_that_lightgbm_changed_are_found_in_the_table() -> None:
    file = imported("lgbm-name-with-blank", "model.txt", from_lightgbm, "slow")
    assert [feature.name for feature in file.features] == ["queue depth", "latency"]
    file = imported("csv-byte-order-mark", "model.txt", from_lightgbm, "slow")
    assert file.features[0].name == "depth"


def write(path: Path, rows: list[list[str]], separator: str, encoding: str) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_as_spreadsheets_save_them(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [["queue depth", "Größe [B]", "a:b"], ["1", "2,5" if separator == ";" else "2.5", "x"]]
    table = read_table(write(tmp_path / "t.csv", rows, separator, encoding))
    assert list(table.columns) == rows[0]
    assert table.features(["queue depth", "Größe [B]"]).tolist() == [[1.0, 2.5]]
    with pytest.raises(ModelError, match="its columns are: queue depth"):
        table.features(["depth"])


def test_columns_are_matched_only_where_there_is_no_doubt(tmp_path: Path) -> None:
    rows = [["queue depth", "a:b", "a b", "größe", "x"], ["1", "2", "3", "4", "5"]]
    table = read_table(write(tmp_path / "t.csv", rows, ",", "utf-8"))
    assert table.match(["queue_depth", "größe"], {}) == ("queue depth", "größe")
    assert table.match(["a_b"], {}) == ("a b",)
    assert table.match(["q", "x"], {"q": "a:b"}) == ("a:b", "x")
    with pytest.raises(ModelError, match=r"lacks the column 'depth'.*--names 'depth=COLUMN'"):
        table.match(["depth"], {})
    twice = [["a:b", "a;b"], ["1", "2"]]
    table = read_table(write(tmp_path / "u.csv", twice, ",", "utf-8"))
    with pytest.raises(ModelError, match="may be any of these: a:b, a;b"):
        table.match(["a_b"], {})
