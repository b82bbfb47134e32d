# SPDX-License-Identifier: Apache-2.0
"""The records of all knobs, and what the real kernel makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from knobs.trying import SYSTEM, name_of, spare, system
from programs import machine_lacks

from kmind.errors import KnobError, UsageError
from kmind.knobs import (
    Knob,
    Rule,
    Target,
    all_knobs,
    block_devices,
    get_knob,
    knob_by_id,
)
from kmind.knobs.__main__ import table

DOCS = Path(__file__).parents[2] / "docs"


def test_ids_are_unique_and_survive_releases() -> None:
    ids = [knob.id for knob in all_knobs()]
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 1 << 32 for number in ids)
    assert get_knob("block.read_ahead_kb").id == 0x215F1FE3
    assert get_knob("vm.swappiness").id == 0xC91C57D0
    assert all(knob_by_id(knob.id) is knob for knob in all_knobs())


@pytest.mark.parametrize("knob", all_knobs(), ids=name_of)
def test_a_record_makes_sense(knob: Knob) -> None:
    assert knob.summary
    assert knob.reference.startswith("Documentation/")
    assert knob.cost_why.endswith(".")
    assert bool(knob.controller) <= (knob.target == "cgroup")
    if knob.kind == "enum":
        assert 1 < len(knob.choices) <= 64
    else:
        assert knob.minimum < knob.maximum
        assert knob.minimum % knob.grid == 0 == knob.maximum % knob.grid
    for rule in knob.rules:
        other = get_knob(rule.other)
        assert (other.kind, other.target) == ("int", knob.target)
        mirrored = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}[rule.op]
        assert Rule(mirrored, knob.name, -rule.offset) in other.rules
    for name in knob.disturbs:
        assert get_knob(name).target == knob.target


def test_the_documentation_holds_the_table() -> None:
    assert table() in (DOCS / "knobs.md").read_text(), "run: python -m kmind.knobs"


@pytest.mark.parametrize("knob", SYSTEM, ids=name_of)
def test_what_stands_can_be_written_down(knob: Knob) -> None:
    assert knob.decode(knob.encode(knob.read(system))) == knob.read(system)
    if knob.kind == "enum":
        assert knob.read(system) in knob.available(system)


@given(st.integers(-(1 << 62), 1 << 62))
def test_an_integer_encodes_as_itself(value: int) -> None:
    knob = get_knob("vm.swappiness")
    assert knob.encode(value) == value
    assert knob.decode(value) == value
    assert knob.parse(knob.format(value)) == value


def test_a_choice_encodes_as_its_index() -> None:
    knob = get_knob("block.scheduler")
    for index, choice in enumerate(knob.choices):
        assert knob.encode(choice) == index
        assert knob.decode(index) == choice
        assert knob.parse(knob.format(choice)) == choice
    for wrong in (-1, len(knob.choices)):
        with pytest.raises(UsageError, match="no choice number"):
            knob.decode(wrong)


@pytest.mark.parametrize("value", [1.5, math.nan, math.inf, True, None, "60", b"60"])
def test_what_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"vm\.swappiness takes an integer"):
        get_knob("vm.swappiness").encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "1.5", "0x10", "1 2"])
def test_what_cannot_be_parsed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"block\.read_ahead_kb takes an integer \(kB\)"):
        get_knob("block.read_ahead_kb").parse(text)


def test_an_unknown_choice_is_refused_with_a_guess() -> None:
    with pytest.raises(UsageError, match="did you mean mq-deadline"):
        get_knob("block.scheduler").encode("deadline")


def test_an_unknown_knob_is_refused_with_a_guess() -> None:
    with pytest.raises(UsageError, match=r"did you mean block\.read_ahead_kb\?"):
        get_knob("block.readahead_kb")
    with pytest.raises(UsageError, match="known are block"):
        get_knob("?")
    with pytest.raises(UsageError, match="0x00000001"):
        knob_by_id(1)


def test_hyphens_and_underscores_are_equal() -> None:
    assert get_knob("vm.page-cluster") is get_knob("vm.page_cluster")


def test_a_device_that_lacks_a_knob_is_named() -> None:
    name = next(
        (n for n in block_devices() if not Path(f"/sys/block/{n}/queue/scheduler").exists()), None
    )
    if name is None:
        machine_lacks("every block device here has a scheduler")
    target, knob = Target.block(name), get_knob("block.scheduler")
    assert not knob.exists(target)
    for act in (knob.read, knob.available, lambda t: knob.write(t, "none")):
        with pytest.raises(KnobError, match=rf"{name} has no knob block\.scheduler"):
            act(target)


def test_a_knob_of_another_kind_of_target_is_refused() -> None:
    with pytest.raises(UsageError, match=r"knob of a block target.*name a block device"):
        get_knob("block.nomerges").read(system)
    assert not get_knob("block.nomerges").exists(system)


@pytest.mark.kernel
def test_what_the_kernel_refuses_is_said_in_its_words() -> None:
    target = spare()
    assert get_knob("block.scheduler").read(target) == "none"
    with pytest.raises(KnobError, match=r"cannot set block\.nr_requests of .*: Invalid argument"):
        get_knob("block.nr_requests").write(target, 60_000)


def test_a_share_of_memory_lowers_the_maximum(tmp_path: Path) -> None:
    knob = get_knob("vm.min_free_kbytes")
    target = Target.system(root=tmp_path)
    assert knob.limits(target) == (1024, 1024)  # it cannot be told: the safe minimum
    (tmp_path / "proc").mkdir()
    for total, maximum in ((1 << 20, 52428), (1 << 40, 1 << 20), (100, 1024)):
        (tmp_path / "proc/meminfo").write_text(f"MemTotal:  {total} kB\n")
        assert knob.limits(target) == (1024, maximum)


@given(st.sampled_from(["<", "<=", ">", ">="]), st.integers(), st.integers(), st.integers())
def test_a_rule_is_plain_arithmetic(op: str, value: int, other: int, offset: int) -> None:
    expected = eval(f"{value} {op} {other} + {offset}")
    assert Rule(op, "vm.swappiness", offset).holds(value, other) is expected  # type: ignore[arg-type]
