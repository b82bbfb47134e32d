# SPDX-License-Identifier: Apache-2.0
"""Files of the policy: found, read, and refused with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from guard.policies import READ_AHEAD, SWAPPINESS, SYSTEM, load
from guard.support import spare_disk

from kmind.errors import PolicyError
from kmind.guard import Policy
from kmind.knobs import Target, all_knobs
from kmind.workloads.simulated_disk import make_disk_files


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
    "no quotes": ("[knob.vm.swappiness]\nmin = 1", "'vm' is not a knob; write names in quotes"),
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
    "enum max": ('[knob."block.scheduler"]\nmax = 1', r":2: block\.scheduler is not a number"),
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
        ("block.read_ahead_kb@./sim0", "is not an absolute path; write it from / on"),
        ("block.read_ahead_kb@/etc/plain", "is not a block device"),
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


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.load(tmp_path / "nosuch.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.load(tmp_path / "latin.toml")
