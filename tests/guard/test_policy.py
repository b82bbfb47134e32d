# SPDX-License-Identifier: Apache-2.0
"""What a policy allows, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from guard.support import spare_disk
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import PolicyError
from kmind.guard import Bound, Policy, RefusedError
from kmind.guard._policy_file import Section
from kmind.guard.policy import MAX_RULES
from kmind.knobs import Rule, Target, all_knobs, get_knob
from kmind.workloads.simulated_disk import make_disk_files

SYSTEM = Target.system()
READ_AHEAD = get_knob("block.read_ahead_kb")
SCHEDULER = get_knob("block.scheduler")
SWAPPINESS = get_knob("vm.swappiness")

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


def load(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return Policy.load(file)


def disk(name: str) -> Target:
    return Target("block", name, 1 << 20)


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


def test_layers_override_field_by_field_in_the_order_of_names(tmp_path: Path) -> None:
    def put(where: str, text: str) -> None:
        file = tmp_path / where
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'[knob."vm.swappiness"]\n{text}\n')

    put("usr/lib/kmind/policy.toml", 'min = 10\nmax = 150\nrate = "6 per minute"')
    put("etc/kmind/policy.toml", "max = 120")
    put("etc/kmind/policy.d/20-b.toml", "max = 80")
    put("etc/kmind/policy.d/10-a.toml", "max = 90\nmax_step = 5")
    put("etc/kmind/policy.d/.30-c.toml", "max = 60")
    (tmp_path / "etc/kmind/policy.d/.#10-a.toml").symlink_to("admin@host.example.4242:1700000000")
    put("etc/kmind/policy.d/30-c.txt", "max = 70")
    bound = Policy.load(root=tmp_path).bound(SWAPPINESS, SYSTEM)
    assert (bound.minimum, bound.maximum, bound.step) == (10, 80, 5)
    assert bound.interval_ns == 10_000_000_000
    put("etc/kmind/policy.d/40-d.toml", "min = 81")
    with pytest.raises(
        PolicyError, match=r"40-d\.toml:2: min 81 is above max 80 of .*20-b\.toml:2"
    ):
        Policy.load(root=tmp_path)


def test_drop_in_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "etc/kmind/policy.d"
    folder.mkdir(parents=True)
    (folder / "10-a.toml").symlink_to("nowhere")
    with pytest.raises(PolicyError, match=r"cannot read the policy .*10-a\.toml"):
        Policy.load(root=tmp_path)


WRONG = {
    "not toml": ("min = = 3", "not TOML.*line 1"),
    "top level": ("\nspeed = 3", r":2: unknown field 'speed'"),
    "field": ('[knob."vm.swappiness"]\nmni = 3', r":2: unknown field 'mni'; known: min, max"),
    "knob": ('\n[knob."vm.swapiness"]', r":2: unknown knob.*did you mean vm\.swappiness"),
    "no quotes": ("[knob.vm.swappiness]\nmin = 1", "'vm' is no knob; write names in quotes"),
    "type": ('[knob."vm.swappiness"]\n\nmin = "a"', r":3: min: Expected `int"),
    "float": ('[knob."vm.swappiness"]\nmin = 1.5', r":2: min: Expected `int"),
    "nan": ("[defaults]\nmax_step_factor = nan", r":2: max_step_factor nan"),
    "infinite": ("[defaults]\nmax_step_factor = inf", r":2: max_step_factor inf"),
    "factor": ("[defaults]\nmax_step_factor = 1.0", r":2: max_step_factor 1\.0; write a number"),
    "step": ("[defaults]\nmax_step = 0", r":2: max_step 0"),
    "rate": ('[defaults]\nrate = "often"', r':2: rate \'often\'; write "N per minute"'),
    "no rate": ('[defaults]\nrate = "0 per minute"', r":2: rate '0 per minute'"),
    "burst": ("[defaults]\nburst = 0", r":2: burst 0"),
    "hold": ("[defaults]\nmax_hold_s = 0", r":2: max_hold_s 0; write 0.001 to"),
    "long hold": ("[defaults]\nmax_hold_s = 1e9", r":2: max_hold_s 1e\+09"),
    "no hold": ("[defaults]\nmax_hold_s = nan", r":2: max_hold_s nan"),
    "death": ('on_daemon_death = "die"', r":1: on_daemon_death: Invalid enum value"),
    "widened": ('[knob."vm.swappiness"]\nmax = 201', r":2: max = 201 is outside.*unsafe = true"),
    "empty": ('[knob."vm.swappiness"]\nmin = 9\nmax = 8', r":2: min 9 is above max 8"),
    "choice": (
        '[knob."block.scheduler"]\nchoices = ["cfq"]',
        r":2: block\.scheduler has no choice",
    ),
    "enum max": ('[knob."block.scheduler"]\nmax = 1', r":2: block\.scheduler is no number"),
    "choices": ('[knob."vm.swappiness"]\nchoices = ["a"]', r":2: vm\.swappiness is a number"),
    "default max": ("[defaults]\nmax = 3", r":2: max makes sense for one knob only"),
    "twice": ('[knob."vm.page-cluster"]\n[knob."vm.page_cluster"]', r"has two sections"),
    "forbidden": ('forbidden = ["vm.nosuch"]', r":1: unknown knob 'vm\.nosuch'"),
    "forbidden type": ("forbidden = 3", r":1: forbidden: Expected `array`"),
    "table": ("knob = 3", r":1: knob must be a table"),
    "rule op": ('[[rule]]\nknob="vm.swappiness"\nop="="\nother="vm.dirty_ratio"', r":1: rule: Inv"),
    "rule knob": ('[[rule]]\nknob="vm.x"\nop="<"\nother="vm.dirty_ratio"', r":1: unknown knob"),
    "rule kinds": (
        '[[rule]]\nknob="vm.swappiness"\nop="<"\nother="block.nomerges"',
        r":1: vm\.swappiness cannot be compared to block\.nomerges",
    ),
    "rule self": (
        '[[rule]]\nknob="vm.swappiness"\nop="<"\nother="vm.swappiness"',
        r":1: vm\.swappiness is compared to itself",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=f"(?s){message}") as caught:
        load(tmp_path, text)
    assert str(tmp_path / "policy.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["sim0", "/dev/sim0"])
@pytest.mark.parametrize(
    "text", ['[knob."block.read-ahead-kb@{}"]\nforbidden = true\n', 'forbidden = ["{}"]\n']
)
def test_a_disk_may_be_named_by_its_path(tmp_path: Path, text: str, name: str) -> None:
    disk = make_disk_files(tmp_path)
    other = make_disk_files(tmp_path, "sim1")
    if not text.startswith("["):
        name = f"block.read_ahead_kb@{name}"
    policy = Policy.load(write(tmp_path, text.format(name)), root=tmp_path)
    assert policy.bound(READ_AHEAD, disk).forbidden
    assert not policy.bound(READ_AHEAD, other).forbidden
    refusal = policy.check(READ_AHEAD, disk, 128, 8192, {})
    assert refusal is not None
    assert "the policy forbids the knob" in str(refusal)
    assert f"{tmp_path / 'policy.toml'}:" in str(refusal)


@pytest.mark.kernel
def test_a_disk_may_be_named_by_a_link(tmp_path: Path) -> None:
    disk = spare_disk()
    link = tmp_path / "by-id"
    link.symlink_to(f"/dev/{disk.name}")
    text = f'[knob."block.read_ahead_kb@{link}"]\nmax = 64\n'
    assert Policy.load(write(tmp_path, text)).bound(READ_AHEAD, disk).maximum == 64


@pytest.mark.parametrize(
    "written",
    ["/a.slice/x.service", "a.slice/x.service", "/a.slice/x.service/", "a.slice!x.service"],
)
def test_a_cgroup_may_be_named_as_on_the_command_line(tmp_path: Path, written: str) -> None:
    cgroup = Target("cgroup", "cgroup:a.slice!x.service", 1, tmp_path)
    knob = next(knob for knob in all_knobs() if knob.target == "cgroup" and knob.kind == "int")
    text = f'[knob."{knob.name}@cgroup:{written}"]\nforbidden = true\n'
    policy = Policy.load(write(tmp_path, text), root=tmp_path)
    assert policy.bound(knob, cgroup).forbidden
    elsewhere = Target("cgroup", "cgroup:a.slice!y.service", 1, tmp_path)
    assert not policy.bound(knob, elsewhere).forbidden


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vm.swappiness@sim0", "vm.swappiness is a knob of a system target, not 'sim0'"),
        ("block.read_ahead_kb@system", "block.read_ahead_kb is a knob of a block target"),
        ("block.read_ahead_kb@cgroup:/a.slice", "names no block target"),
        ("block.read_ahead_kb@", "names no block target"),
        ("block.read_ahead_kb@./sim0", "is no whole path; write it from / on"),
        ("block.read_ahead_kb@/etc/plain", "is no block device"),
        ("block.read_ahead_kb@sim0p1", "is a partition and has no request queue of its own"),
    ],
)
def test_a_target_that_cannot_have_the_knob_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    make_disk_files(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/plain").touch()
    (tmp_path / "sys/block/sim0/sim0p1").mkdir()
    (tmp_path / "sys/block/sim0/sim0p1/partition").write_text("1\n")
    (tmp_path / "sys/class/block").mkdir(parents=True)
    (tmp_path / "sys/class/block/sim0p1").symlink_to("../../block/sim0/sim0p1")
    path = write(tmp_path, f'\n[knob."{name}"]\nforbidden = true\n')
    with pytest.raises(PolicyError) as refused:
        Policy.load(path, root=tmp_path)
    assert str(refused.value).startswith(f"{path}:2: ")
    assert message in str(refused.value)


def test_a_disk_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    for name in ("later0", "/dev/disk/by-id/later"):
        Policy.load(write(tmp_path, f'forbidden = ["block.read_ahead_kb@{name}"]'), root=tmp_path)


def test_two_sections_of_one_disk_are_refused(tmp_path: Path) -> None:
    make_disk_files(tmp_path)
    text = '[knob."block.read_ahead_kb@sim0"]\nmax = 64\n[knob."block.read_ahead_kb@/dev/sim0"]\n'
    with pytest.raises(PolicyError, match=r"has two sections, as it is block\.read_ahead_kb@sim0"):
        Policy.load(write(tmp_path, text), root=tmp_path)


def test_a_later_layer_counts_however_the_disk_is_spelled(tmp_path: Path) -> None:
    disk = make_disk_files(tmp_path)
    folder = tmp_path / "etc/kmind/policy.d"
    folder.mkdir(parents=True)
    for number, name in enumerate(("/dev/sim0", "sim0", "/dev/sim0")):
        text = f'[knob."block.read_ahead_kb@{name}"]\nmax = {(number + 1) * 64}\n'
        (folder / f"{number}.toml").write_text(text)
    assert Policy.load(root=tmp_path).bound(READ_AHEAD, disk).maximum == 192


def test_the_documentation_names_every_field_and_its_example_loads(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    for field in Section.__struct_fields__:
        assert f"| `{field}` |" in text
    example = text.partition("```toml\n")[2].partition("```")[0]
    policy = load(tmp_path, example)
    assert policy.bound(READ_AHEAD, disk("vda")).maximum == 4096
    assert policy.bound(READ_AHEAD, disk("sda")).maximum == 512


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.load(tmp_path / "nosuch.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.load(tmp_path / "latin.toml")


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
    SCHEDULER.file(disk).write_text(f"none [{present}] mq-deadline\n")
    refusal = Policy().check(SCHEDULER, disk, "none", SCHEDULER.read(disk), {})
    assert f"stands at {present}, which kmind does not know" in str(refusal)
    SCHEDULER.file(disk).write_text("none adios [mq-deadline]\n")
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
