# SPDX-License-Identifier: Apache-2.0
"""Outcomes and guards of a manifest."""

from pathlib import Path

import pytest
from extension.manifests import GOOD, write

from kmind.errors import ModuleError
from kmind.extension import load_manifest

OUTCOME = """\
[[outcome]]
name = "speed"
help = "what is served"
better = "higher"
numerator = ["requests"]

[[guard]]
name = "size"
help = "what each takes"
better = "lower"
numerator = ["requests"]
denominator = ["requests"]
limit = 2.0

[evidence]
block_s = 1.0
"""


def test_outcomes_and_guards(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD + OUTCOME))
    assert [outcome.features for outcome in manifest.outcomes] == [("requests",)]
    assert [(guard.name, guard.limit) for guard in manifest.guards] == [("size", 2.0)]
    assert (manifest.evidence.by, manifest.evidence.block_s) == ("owner", 1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('numerator = ["requests"]', 'numerator = ["free_kb"]', "'free_kb' is no counter"),
        ('numerator = ["requests"]', "numerator = []", "outcome\\[0\\].numerator"),
        ('better = "higher"', 'better = "more"', "Invalid enum value 'more'"),
        ('["requests"]\nlimit', '["nothing"]\nlimit', "guard\\[0\\]: 'nothing' is no counter"),
        ("limit = 2.0", "limit = 1.0", "guard\\[0\\].limit"),
        ("limit = 2.0\n", "", "limit"),
        ('better = "h', 'when = [{ order = "x" }]\nbetter = "h', "when: order = 'x' is no class"),
        ('better = "h', 'guard_when = [{ x = "y" }]\nbetter = "h', "guard_when: x = 'y' is no"),
        ('better = "higher"', 'better = "higher"\nfloor = -1.0', "outcome\\[0\\].floor"),
        ("block_s = 1.0", "block_s = 0.0", "evidence.block_s"),
        ("block_s = 1.0", 'by = "nobody"', "evidence.by"),
    ],
)
def test_outcomes_that_cannot_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in OUTCOME
    with pytest.raises(ModuleError, match=message):
        load_manifest(write(tmp_path, GOOD + OUTCOME.replace(old, new, 1)))
