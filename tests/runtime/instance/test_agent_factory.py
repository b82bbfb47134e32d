# SPDX-License-Identifier: Apache-2.0
"""Binding a module to a target, and what an agent is made of; without loading one."""

import os
from pathlib import Path

import pytest
from sample_module import RECOMMENDER, make_module

from kmind.errors import KmindError, PrivilegeError, UsageError
from kmind.extension import find_module, parse_parameters
from kmind.knobs import Target, parse_target
from kmind.runtime.instance import agent_factory
from kmind.runtime.instance.agent_factory import bind, make_bpf_agent, need_root


@pytest.mark.parametrize(
    ("module", "target", "reason"),
    [
        ("readahed", "vda", "did you mean 'readahead'"),
        ("readahead", "", "needs a target: a block device"),
        ("readahead", "system", "works on a block target, and system is a system one"),
        ("dirty", "cgroup:/", "names no cgroup below the root"),
        ("readahead", "no-such-disk", "no-such-disk"),
        ("x" * 300, "vda", "x" * 80),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(module: str, target: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind(module, target)
    assert reason in str(caught.value)
    assert caught.value.hint or "did you mean" in str(caught.value)


def test_module_of_the_system_needs_no_target() -> None:
    module, target = bind("dirty", "")
    assert (module.manifest.name, target.name, target.kind) == ("dirty", "system", "system")


def test_disk_is_watched_with_its_partitions(tmp_path: Path) -> None:
    disk = tmp_path / "sys/block/vdz"
    for name, number in (("vdz1", "259:1"), ("vdz2", "259:2")):
        (disk / name).mkdir(parents=True)
        (disk / name / "partition").write_text("1\n")
        (disk / name / "dev").write_text(f"{number}\n")
    (disk / "queue").mkdir()
    target = Target("block", "vdz", 254 << 20, tmp_path)
    assert agent_factory._devices(target) == [254 << 20, 259 << 20 | 1, 259 << 20 | 2]
    assert agent_factory._devices(parse_target("system")) == []


def test_windows_are_as_long_as_the_module_has_them() -> None:
    module, target = bind("dirty", "")
    plain = agent_factory._made_of(module, target, {}, 1.0)
    assert plain["window_s"] == 0.1
    long = agent_factory._made_of(module, target, {agent_factory.WINDOW_PARAMETER: 500}, 1.0)
    assert long["window_s"] == 0.5


def test_schema_of_the_model_goes_with_its_features() -> None:
    use = agent_factory._model_use(find_module("iolat"))
    assert use is not None
    assert len(use.schema) == 32
    assert agent_factory._model_use(find_module("readahead")) is None or use.budget_ns > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for what comes behind it")
def test_agent_that_is_not_compiled_says_what_to_do(tmp_path: Path) -> None:
    module = find_module(str(make_module(tmp_path, RECOMMENDER)))
    module.object_path.unlink(missing_ok=True)
    with pytest.raises(KmindError, match=r"is not compiled.*make setup"):
        make_bpf_agent(module, parse_target("system"), {}, deadline_s=1.0)


def test_user_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match="sudo kmind"):
        need_root()


def test_parameters_of_the_agent_are_among_what_it_is_made_of() -> None:
    module = find_module("iolat")
    params = parse_parameters(module.manifest, ["slow_us=2500"])
    made = agent_factory._made_of(module, Target("block", "vda", 254 << 20, Path("/")), params, 1.0)
    assert made["parameters"]["slow_us"] == 2500
