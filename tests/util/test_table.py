# SPDX-License-Identifier: Apache-2.0
"""Tables fit the terminal, keep every word, and are not folded where a program reads them."""

from hypothesis import given
from hypothesis import strategies as st

from kmind.util.table import table

HEAD = ("id", "change", "reason")
ROW = (
    7,
    "block.read_ahead_kb 128 -> 512",
    "Reads are at random, and most of what comes is unused.",
)
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)


def test_without_a_limit_a_row_is_a_line() -> None:
    head, row = table(HEAD, [ROW], width=0).splitlines()
    assert head == "id  change                          reason"
    assert row == f"7   {ROW[1]}  {ROW[2]}"


def test_the_last_column_is_folded_first() -> None:
    _, *lines = table(HEAD, [ROW], width=60).splitlines()
    assert lines[0].startswith(f"7   {ROW[1]}  ")
    assert " ".join(" ".join(lines).split()[5:]) == ROW[2]
    assert max(map(len, lines)) <= 60


def test_names_are_broken_only_where_there_is_no_other_way() -> None:
    narrow = table(HEAD, [ROW], width=45)
    assert "block.read_ahead_kb" in narrow
    assert "block.read_ahead_kb" not in table(HEAD, [ROW], width=30)


def test_cut_rows_are_a_line_each() -> None:
    _, row = table(HEAD, [ROW], width=60, cut=True).splitlines()
    assert row.startswith(f"7   {ROW[1]}  Reads are")
    assert row.endswith("…")
    assert len(row) <= 60


def test_what_others_wrote_adds_no_lines() -> None:
    assert table(("a",), [("one\ntwo\r\n\tthree",)], width=0) == "a\none two three\n"


@given(
    st.lists(
        st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=3, max_size=3), max_size=5
    ),
    st.integers(40, 120),
)
def test_every_table_fits_and_loses_nothing(rows: list[list[str]], width: int) -> None:
    text = table(HEAD, rows, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    given_ = sorted("".join(cell for row in rows for cell in row).replace(" ", ""))
    shown = sorted("".join(text.split()))
    for letter in "".join(HEAD):
        shown.remove(letter)
    assert shown == given_
