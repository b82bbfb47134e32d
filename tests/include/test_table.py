# SPDX-License-Identifier: Apache-2.0
"""kmind/table.h refuses to compile what would not work, and the page's example works."""

from pathlib import Path

import pytest
from agents import compile_bpf

PAGE = Path(__file__).resolve().parents[2] / "docs" / "modules.md"
HEAD = """\
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""


def example() -> str:
    """The table of docs/modules.md, and a hook that counts in it."""
    blocks = PAGE.read_text().split("```c\n")[1:]
    (table,) = [block.split("```")[0] for block in blocks if "KM_TABLES" in block]
    hook = """
SEC("tp_btf/block_rq_complete")
int KM_HOOK(on_complete, struct request *rq, int error, unsigned int bytes)
{
	count(7, bytes);
	return 0;
}
"""
    return HEAD + table + hook


def compiled(folder: Path, text: str) -> Path:
    source = folder / "example.bpf.c"
    source.write_text(text)
    return compile_bpf(source, folder / "example.bpf.o")


def test_example_of_the_page_compiles(tmp_path: Path) -> None:
    assert compiled(tmp_path, example()).exists()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("table(disks)\n", "table(disks) table(more)\n", "'km_look_through_more' has internal"),
        ("#define KM_TABLES(table) table(disks)", "", "unused function 'km_look_through_disks'"),
        ("us);\n        }", "us);\n        }\n        km_observe(row->latency, 1, 0, 24, us);",
         "the histogram has another number of buckets"),
        ("} KM_ROW_ALIGNED", "}", "a row ends with KM_ROW_ALIGNED"),
        ("KM_ROW(struct disks_key);\n        __u64 requests;",
         "__u64 requests;\n        KM_ROW(struct disks_key);", "a row begins with KM_ROW()"),
    ],
)  # fmt: skip
def test_what_would_not_work_does_not_compile(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, why: str
) -> None:
    text = example()
    assert old in text
    with pytest.raises(SystemExit, match="refused"):
        compiled(tmp_path, text.replace(old, new))
    assert why in capfd.readouterr().err
