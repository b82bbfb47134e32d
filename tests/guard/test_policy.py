# SPDX-License-Identifier: Apache-2.0
"""Changes that a policy allows, and wrong policies that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from guard.policies import READ_AHEAD, SWAPPINESS, SYSTEM, disk, load
from guard.support import spare_disk
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import PolicyError
from kmind.guard import Bound, Policy, RefusedError
from kmind.guard._policy_file import Section
from kmind.guard.policy import MAX_RULES
from kmind.knobs import Rule, all_knobs, get_knob
from kmind.workloads.simulated_disk import make_disk_files

SCHEDULER = get_knob("block.scheduler")

FULL = """
forbidden = ["vm.min-free-kbytes"]
on_daemon_death = "keep"

[defaults]
rate = "12 per minute"
burst = 2
max_hold_s = 60

[knob."block.read_ahead_kb"]
min = 17
max = 4096
max_step = 2048
max_step_factor = 4.0
rate = "30 per minute"
on_daemon_death = "restore"

[knob."block.read_ahead_kb@sda"]  # this disk only
max = 1024

[knob."block.scheduler"]
choices = ["none", "bfq"]

[[rule]]
knob = "vm.swappiness"
op = "<="
other = "vm.vfs_cache_pressure"
offset = 10
"""


def test_without_a_file_each_knob_has_its_safe_bounds(tmp_path: Path) -> None:
    policy = Policy.load(root=tmp_path)
    assert policy == Policy()
    for knob in all_knobs():
        if knob.name.startswith(("zram.", "cgroup.")):
            continue  # this machine need not have any
        target = SYSTEM if knob.target == "system" else spare_disk()
        bound = policy.bound(knob, target)
        assert (bound.minimum, bound.maximum) == knob.limits(target)
        assert (bound.interval_ns, bound.burst) == (1_000_000_000, 4)
        assert bound.hold_ms == 3_600_000
        assert (bound.rules, bound.forbidden) == (knob.rules, False)
        assert policy.on_daemon_death(knob, target) == "restore"


def test_every_field_reaches_the_bound(tmp_path: Path) -> None:
    policy = load(tmp_path, FULL)
    assert policy.bound(READ_AHEAD, disk("vda")) == Bound(
        minimum=20,  # the next multiple of the grid
        maximum=4096,
        grid=4,
        step=2048,
        step_factor_percent=400,
        interval_ns=2_000_000_000,
        burst=2,
        hold_ms=60_000,
    )
    assert policy.bound(SCHEDULER, spare_disk()).hold_ms == 60_000
    assert policy.bound(READ_AHEAD, disk("sda")).maximum == 1024
    assert policy.bound(READ_AHEAD, disk("sda")).minimum == 20
    assert policy.bound(SCHEDULER, spare_disk()).choices & ~0b1001 == 0
    assert policy.bound(get_knob("vm.min_free_kbytes"), SYSTEM).forbidden
    assert policy.on_daemon_death(READ_AHEAD, disk("vda")) == "restore"
    assert policy.on_daemon_death(SWAPPINESS, SYSTEM) == "keep"


def test_a_rule_binds_both_its_knobs(tmp_path: Path) -> None:
    policy = load(tmp_path, FULL)
    pressure = get_knob("vm.vfs_cache_pressure")
    assert policy.bound(SWAPPINESS, SYSTEM).rules == (Rule("<=", "vm.vfs_cache_pressure", 10),)
    assert policy.bound(pressure, SYSTEM).rules == (Rule(">=", "vm.swappiness", -10),)


def test_the_documentation_names_every_field_and_its_example_loads(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    for field in Section.__struct_fields__:
        assert f"| `{field}` |" in text
    example = text.partition("```toml\n")[2].partition("```")[0]
    policy = load(tmp_path, example)
    assert policy.bound(READ_AHEAD, disk("vda")).maximum == 4096
    assert policy.bound(READ_AHEAD, disk("sda")).maximum == 512


def test_more_rules_than_the_kernel_holds_are_refused(tmp_path: Path) -> None:
    others = [k.name for k in all_knobs() if k.target == "system" and k != SWAPPINESS]
    rules = "".join(
        f'[[rule]]\nknob = "vm.swappiness"\nop = ">"\nother = "{name}"\n'
        for name in others[: MAX_RULES + 1]
    )
    with pytest.raises(PolicyError, match=r"policy\.toml:1: vm\.swappiness is under 5 rules"):
        load(tmp_path, rules).bound(SWAPPINESS, SYSTEM)


def test_unsafe_widens(tmp_path: Path) -> None:
    policy = load(tmp_path, '[knob."vm.vfs_cache_pressure"]\nmin = 0\nmax = 9999\nunsafe = true')
    bound = policy.bound(get_knob("vm.vfs_cache_pressure"), SYSTEM)
    assert (bound.minimum, bound.maximum) == (0, 9999)


def test_bounds_between_two_values_of_the_grid_are_refused(tmp_path: Path) -> None:
    policy = load(tmp_path, '[knob."block.read_ahead_kb"]\nmin = 5\nmax = 6')
    with pytest.raises(PolicyError, match=r":2: no value of block\.read_ahead_kb on vda lies"):
        policy.bound(READ_AHEAD, disk("vda"))


@pytest.mark.parametrize(
    ("new", "current", "verdict", "message"),
    [
        (8192, 4096, "range", r"allowed are 20 to 4096; set in .*policy\.toml:12"),
        (16, 64, "range", "allowed are 20 to 4096"),
        (66, 64, "grid", "multiples of 4"),
        (20, 4096, "step", "too far from 4096 in one step .at most 2048 away and at most 4 times"),
        (4096, 2000, "step", "smaller steps, set in"),
        (260, 64, "step", "too far"),
        (256, 64, None, ""),
        (64, 256, None, ""),
        (4096, 4096, None, ""),
        (20, 0, "step", "too far"),
        (float("nan"), 64, "type", "takes an integer"),
        (float("inf"), 64, "type", "takes an integer"),
        (64.0, 64, "type", "takes an integer"),
        (True, 64, "type", "takes an integer"),
        ("64", 64, "type", "takes an integer"),
        (None, 64, "type", "takes an integer"),
    ],
)
def test_a_value_is_checked(
    tmp_path: Path, new: object, current: int, verdict: str | None, message: str
) -> None:
    refusal = load(tmp_path, FULL).check(READ_AHEAD, disk("vda"), new, current, {})
    assert (refusal and refusal.verdict) == verdict
    if refusal:
        with pytest.raises(RefusedError, match=message):
            raise refusal


def test_a_choice_is_checked(tmp_path: Path) -> None:
    target = spare_disk()
    policy = load(tmp_path, FULL)
    assert policy.check(SCHEDULER, target, "none", "none", {}) is None
    for new, verdict in (("mq-deadline", "grid"), ("cfq", "type"), (0, "type")):
        refusal = policy.check(SCHEDULER, target, new, "none", {})
        assert refusal is not None
        assert refusal.verdict == verdict


@pytest.mark.parametrize("present", ["adios", ""])
def test_what_stands_at_an_unknown_choice_is_left_alone(tmp_path: Path, present: str) -> None:
    disk = make_disk_files(tmp_path)
    Path(SCHEDULER.place(disk)).write_text(f"none [{present}] mq-deadline\n")
    refusal = Policy().check(SCHEDULER, disk, "none", SCHEDULER.read(disk), {})
    assert f"stands at {present}, which kmind does not know" in str(refusal)
    Path(SCHEDULER.place(disk)).write_text("none adios [mq-deadline]\n")
    assert Policy().check(SCHEDULER, disk, "none", SCHEDULER.read(disk), {}) is None


def test_a_forbidden_knob_is_refused(tmp_path: Path) -> None:
    refusal = load(tmp_path, FULL).check(get_knob("vm.min_free_kbytes"), SYSTEM, 9000, 8000, {})
    assert refusal is not None
    assert refusal.verdict == "forbidden"
    assert refusal.hint.endswith("policy.toml:2")


@pytest.mark.parametrize(
    ("others", "refused"),
    [
        ({"vm.dirty_ratio": 20}, False),
        ({"vm.dirty_ratio": 15}, True),
        ({"vm.dirty_ratio": 10}, True),
        ({}, True),
        ({"vm.dirty_ratio": "?"}, True),
    ],
)
def test_a_rule_is_checked(others: dict[str, int | str], refused: bool) -> None:
    knob = get_knob("vm.dirty_background_ratio")
    refusal = Policy().check(knob, SYSTEM, 15, 10, others)
    assert (refusal is not None) is refused
    if refusal is not None:
        assert refusal.verdict == "rule"
    assert Policy().check(knob, SYSTEM, 15, 15, others) is None  # it stands already


bounds = st.builds(
    Bound,
    minimum=st.integers(0, 300),
    maximum=st.integers(200, 20_000),
    grid=st.sampled_from([1, 4, 64]),
    step=st.integers(0, 500),
    step_factor_percent=st.sampled_from([0, 101, 150, 200, 400]),
)


@given(bounds, st.integers(-100, 21_000), st.integers(0, 21_000))
def test_what_passes_a_bound_is_within_all_of_it(bound: Bound, new: int, current: int) -> None:
    kind = bound.refuses(new, current)
    inside = bound.minimum <= new <= bound.maximum
    assert (kind == "range") is not inside
    assert (kind == "grid") is (inside and new % bound.grid != 0)
    if kind is None and new != current:
        assert not bound.step or abs(new - current) <= bound.step
        if bound.step_factor_percent:
            ratio = max(new, 1) / max(current, 1)
            assert max(ratio, 1 / ratio) <= bound.step_factor_percent / 100 + 1e-9
    if kind == "step":
        assert new != current
        assert bound.step or bound.step_factor_percent


@given(bounds, st.integers(0, 20_000))
def test_steps_are_the_same_in_both_directions(bound: Bound, value: int) -> None:
    other = value + (bound.step or 64)
    there, back = bound.refuses(other, value), bound.refuses(value, other)
    if "range" not in (there, back) and "grid" not in (there, back):
        assert there == back


@given(
    st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans(), st.binary()),
    st.sampled_from([knob for knob in all_knobs() if knob.target == "system"]),
)
def test_any_value_gets_a_verdict(new: object, knob: object) -> None:
    assert isinstance(knob, type(SWAPPINESS))
    refusal = Policy().check(knob, SYSTEM, new, knob.read(SYSTEM), {})
    if refusal is None:
        assert type(new) is int
        assert knob.minimum <= new <= knob.maximum
    elif type(new) is not int:
        assert refusal.verdict == "type"


@given(
    knob=st.sampled_from([knob for knob in all_knobs() if knob.kind == "int"]),
    data=st.data(),
)
def test_a_policy_only_narrows(
    tmp_path_factory: pytest.TempPathFactory, knob: object, data: st.DataObject
) -> None:
    assert isinstance(knob, type(SWAPPINESS))
    low = data.draw(st.integers(knob.minimum, knob.maximum))
    high = data.draw(st.integers(low, knob.maximum))
    file = tmp_path_factory.mktemp("policy") / "policy.toml"
    file.write_text(f'[knob."{knob.name}"]\nmin = {low}\nmax = {high}\n')
    target = SYSTEM if knob.target == "system" else disk("vda")
    safe = knob.limits(target)
    try:
        bound = Policy.load(file).bound(knob, target)
    except PolicyError:
        # Nothing is left: between two values of the grid, or more than the memory allows.
        assert max(low, safe[0]) + knob.grid > min(high, safe[1])
        return
    assert max(low, safe[0]) <= bound.minimum <= bound.maximum <= min(high, safe[1])
    assert bound.minimum - max(low, safe[0]) < knob.grid
    assert min(high, safe[1]) - bound.maximum < knob.grid
