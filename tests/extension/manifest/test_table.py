# SPDX-License-Identifier: Apache-2.0
"""Tables in a manifest: as a C compiler lays them out, or refused with file and line."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kmind.abi import layout
from kmind.errors import ModuleError
from kmind.extension import load_manifest
from kmind.extension.manifest.manifest import TablePart

HEAD = """\
name = "sample"
version = "1"
class = "detector"
description = "Watches disks."
author = "A. Author"
licence = "Apache-2.0"

[agent]
object = "sample.bpf.c"

[extension]
entry = "extension:Sample"

[target]
kind = "system"

"""

TABLE = """\
[[table]]
name = "disks"
help = "requests by disk"
rows = 64
evict_after_s = 60

[[table.key]]
name = "device"
type = "u32"
help = "its number"

[[table.key]]
name = "kind"
type = "u16"
help = "read or write"

[[table.key]]
name = "name"
type = "bytes"
size = 6
help = "its name"

[[table.column]]
name = "requests"
kind = "counter"
help = "requests of it"

[[table.column]]
name = "depth"
kind = "gauge"
help = "how many it has"

[[table.column]]
name = "latency"
kind = "histogram"
unit = "us"
scale = 3
low = 4
high = 20
help = "how long they took"
"""


def load(folder: Path, text: str) -> TablePart:
    path = folder / "module.toml"
    path.write_text(HEAD + text)
    return load_manifest(path).tables[0]


def test_row_is_laid_out_as_a_compiler_does(tmp_path: Path) -> None:
    part = load(tmp_path, TABLE)
    dtype = part.dtype
    assert dtype["key"].fields == {
        "device": (np.dtype("<u4"), 0),
        "kind": (np.dtype("<u2"), 4),
        "name": (np.dtype(("u1", (6,))), 6),
    }
    fields = dtype.fields or {}
    assert {name: fields[name][1] for name in fields} == {
        "row": 0,
        "key": 24,
        "requests": 40,
        "depth": 48,
        "latency": 56,
    }
    assert dtype["latency"].shape == (2 + 16 * 8,)
    assert dtype.itemsize % layout.LIMIT["ROW_ALIGN"] == 0
    shape = part.shape
    assert (shape.rows, shape.key_size, shape.evict_after_ns) == (64, 12, 60 * 10**9)
    assert shape.histograms == {"latency": (3, 4, 20)}


def test_layout_differs_wherever_rows_would_be_misread(tmp_path: Path) -> None:
    one = load(tmp_path, TABLE).shape.layout
    for old, new in (
        ('"requests"', '"reads"'),
        ('"gauge"', '"counter"'),
        ('"u16"', '"i16"'),
        ("scale = 3\nlow = 4\nhigh = 20", "scale = 4\nlow = 4\nhigh = 12"),
    ):
        assert load(tmp_path, TABLE.replace(old, new)).shape.layout != one
    assert load(tmp_path, TABLE.replace("requests of it", "requests")).shape.layout == one


# What is replaced, with what, and what the error must say after file and line.
BROKEN = [
    ("rows = 64", "rows = 4097", "table[0].rows: Expected `int` <= 4096"),
    ("rows = 64", "rows = 0", "table[0].rows: Expected `int` >= 1"),
    ("evict_after_s = 60", "evict_after_s = 0.5", "table[0].evict_after_s: Expected"),
    ('name = "disks"', 'name = "a-b"', "table[0].name: Expected `str` matching"),
    ('"u32"', '"u31"', "table[0].key[0].type: Invalid enum value 'u31'"),
    ("size = 6", "size = 0", "table[0].key[2]: key name: size goes with type bytes"),
    ("size = 6", "size = 5", "table[0]: table disks: the compiler would leave a hole in its key"),
    ("size = 6", "size = 30", "table[0]: table disks: 36 bytes in a key, at most 32"),
    ('"counter"', '"count"', "table[0].column[0].kind: Invalid enum value 'count'"),
    ('"requests"', '"depth"', "table[0]: table disks: column 'depth' occurs twice"),
    ('"requests"', '"key"', "table[0].column[0]: column key: a row has a key of its own"),
    ('"gauge"', '"gauge"\nscale = 2', "table[0].column[1]: column depth: scale, low and high go"),
    ("high = 20", "high = 4", "table[0].column[2]: column latency: a histogram needs low below"),
    ("scale = 3", "scale = 6", "table[0].column[2].scale: Expected `int` <= 5"),
    ("scale = 3", "scale = 5", "table[0].column[2]: column latency: 514 buckets, at most"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_broken_table_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TABLE
    with pytest.raises(ModuleError) as caught:
        load(tmp_path, TABLE.replace(old, new, 1))
    file, line, said = str(caught.value).split(":", 2)
    assert file == str(tmp_path / "module.toml")
    assert int(line) > HEAD.count("\n")
    assert said.strip().startswith(message)
    assert "\n" not in said


def table(**words: Any) -> dict[str, Any]:
    key = [{"name": "x", "type": "u64", "help": "x"}]
    column = [{"name": "y", "kind": "counter", "help": "y"}]
    return {"name": "t", "help": "t", "rows": 1, "key": key, "column": column} | words


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([("counter", 61)], "61 counters and gauges, at most 60"),
        ([("histogram", 9)], "9 histograms, at most 8"),
        ([("counter", 60), ("histogram", 3)], None),
    ],
)
def test_columns_are_bounded(columns: list[tuple[str, int]], message: str | None) -> None:
    made = [
        {"name": f"{kind}_{n}", "kind": kind, "help": "x"}
        | ({"high": 10} if kind == "histogram" else {})
        for kind, count in columns
        for n in range(count)
    ]
    if message is None:
        assert msgspec.convert(table(column=made), TablePart).dtype.itemsize == 832
        return
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(table(column=made), TablePart)


def test_row_is_bounded() -> None:
    wide = {"kind": "histogram", "help": "x", "scale": 3, "high": 40}
    made = [{"name": f"h{n}", **wide} for n in range(4)]
    with pytest.raises(msgspec.ValidationError, match=r"bytes in a row, at most 8192"):
        msgspec.convert(table(column=made), TablePart)


@pytest.mark.parametrize("what", ["key", "column"])
def test_table_needs_keys_and_columns(what: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"table t: it needs a {what}"):
        msgspec.convert(table(**{what: []}), TablePart)


def test_memory_of_all_tables_is_bounded(tmp_path: Path) -> None:
    """Two of 4,096 rows with 1,088 bytes fit in 16 MiB, and four do not."""
    large = TABLE.replace("rows = 64", "rows = 4096")
    tables = [large.replace('"disks"', f'"disks{n}"') for n in range(4)]
    load(tmp_path, "".join(tables[:2]))
    with pytest.raises(ModuleError, match=r"table: rows take .* bytes of kernel memory"):
        load(tmp_path, "".join(tables))


def test_ninth_table_is_refused(tmp_path: Path) -> None:
    text = "".join(TABLE.replace('"disks"', f'"disks{n}"') for n in range(9))
    with pytest.raises(ModuleError, match="table: 9, and a module has at most 8"):
        load(tmp_path, text)
