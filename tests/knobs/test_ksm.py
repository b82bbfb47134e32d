# SPDX-License-Identifier: Apache-2.0
"""Knobs of kernel samepage merging: bounds that keep ksmd from harm."""

from pathlib import Path

import pytest

from kmind.knobs import Knob, Target, get_knob
from kmind.knobs.ksm import KNOBS


@pytest.fixture
def target(tmp_path: Path) -> Target:
    folder = tmp_path / "sys/kernel/mm/ksm"
    folder.mkdir(parents=True)
    for knob in KNOBS:
        text = "[none] scan-time\n" if knob.kind == "enum" else f"{knob.minimum}\n"
        (folder / Path(knob.path).name).write_text(text)
    return Target.system(root=tmp_path)


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_each_is_read_as_it_was_written(knob: Knob, target: Target) -> None:
    for value in knob.choices or (knob.minimum, knob.maximum):
        knob.write(target, value)
        if knob.kind == "int":  # the kernel shows an enum's choices, and this folder does not
            assert knob.read(target) == value


def test_pages_cannot_be_taken_apart_at_once() -> None:
    assert get_knob("ksm.run").maximum == 1


def test_ksmd_always_rests_between_rounds() -> None:
    assert get_knob("ksm.sleep_millisecs").minimum >= 10


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_each_says_what_it_costs_and_where_it_is_documented(knob: Knob) -> None:
    assert knob.cost_why
    assert knob.reference == "Documentation/admin-guide/mm/ksm.rst"
    assert knob.target == "system"


def test_advisor_disturbs_what_it_sets() -> None:
    assert get_knob("ksm.advisor_mode").disturbs == ("ksm.pages_to_scan",)


def test_merging_across_nodes_is_no_knob() -> None:
    assert not {"ksm.merge_across_nodes", "ksm.max_page_sharing"} & {knob.name for knob in KNOBS}
