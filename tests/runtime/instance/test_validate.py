# SPDX-License-Identifier: Apache-2.0
"""Parameters of an instance, refused before anything is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kmind.errors import UsageError
from kmind.extension import find_module, parse_parameters
from kmind.guard import Policy
from kmind.knobs import Target
from kmind.runtime.holds.selection import chosen_knobs
from kmind.runtime.instance.validate import check_request

SYSTEM = Target.system()


def wishes(
    target: Target = SYSTEM, policy: Policy | None = None, **words: str
) -> Mapping[str, Any]:
    module = find_module("autotune")
    words = {"objective": "psi.io.some", "knobs": "vm.swappiness"} | words
    params = parse_parameters(module.manifest, [f"{k}={v}" for k, v in words.items()])
    check_request(module, target, params, policy)
    return params


def test_knobs_of_several_families_are_chosen() -> None:
    params = wishes(knobs="vm.swappiness, thp.defrag,vm.page-cluster")
    module = find_module("autotune")
    assert chosen_knobs(module.manifest, params) == (
        "vm.swappiness",
        "thp.defrag",
        "vm.page_cluster",
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"knobs": ""}, "knobs= names no knob"),
        ({"knobs": "vm.swapiness"}, "did you mean vm.swappiness"),
        ({"knobs": "vm.swappiness,vm.swappiness"}, "knob vm.swappiness is named twice"),
        ({"knobs": "vm.page-cluster,vm.page_cluster"}, "knob vm.page_cluster is named twice"),
        ({"knobs": "zram.comp_algorithm"}, "module autotune does not move zram.comp_algorithm"),
        ({"knobs": "block.nr_requests"}, "is a knob of a block target"),
        ({"knobs": "thp.enabled,vm.min_free_kbytes"}, "contradict each other: the kernel resets"),
        ({"objective": "nosuch"}, "unknown objective 'nosuch'"),
        ({"objective": "command:/bin/true"}, "does not say which way is good"),
        ({"objective": "command:/bin/true", "better": "lower", "user": "nosuch"}, "no user"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(words: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        wishes(**words)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_that_leaves_no_pair_of_values_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        '[knob."vm.dirty_ratio"]\nmax = 20\n[knob."vm.dirty_background_ratio"]\nmin = 30\n'
    )
    policy = Policy.load(file)
    knobs = "vm.dirty_ratio,vm.dirty_background_ratio"
    with pytest.raises(UsageError, match="no values within the policy satisfy"):
        wishes(policy=policy, knobs=knobs)
    assert wishes(knobs=knobs)


def test_a_disk_that_lacks_a_knob_is_named(tmp_path: Path) -> None:
    (tmp_path / "sys/block/sda").mkdir(parents=True)
    (tmp_path / "sys/block/sda/dev").write_text("8:0\n")
    with pytest.raises(UsageError, match=r"sda has no knob block\.nomerges"):
        wishes(Target.block("sda", root=tmp_path), knobs="block.nomerges")


def test_memory_of_a_driver_fits_below_its_limit_or_is_refused() -> None:
    module = find_module("ram")
    part, limits = module.manifest.driver, module.manifest.limits
    assert part is not None
    most = limits.memory_mib - part.least_mib
    check_request(module, SYSTEM, parse_parameters(module.manifest, {"size_mib": most}))
    more = parse_parameters(module.manifest, {"size_mib": most + 1})
    with pytest.raises(UsageError, match=f"size_mib={most + 1} is more than is granted") as caught:
        check_request(module, SYSTEM, more)
    assert caught.value.hint == f"give at most size_mib={most}"
