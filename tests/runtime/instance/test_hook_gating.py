# SPDX-License-Identifier: Apache-2.0
"""Hooks that stand only while there is something to see."""

from pathlib import Path

import pytest

from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.protocol import AgentHooks
from kmind.extension import find_module
from kmind.knobs import Target
from kmind.runtime.instance.agent_factory import make_bpf_agent
from kmind.runtime.instance.hook_gating import QUIET_S, HookGating, lost_hooks, silent_hooks
from kmind.workloads.host import device_of


class _Agent:
    """Plays an agent that counts what it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.standing: set[str] = set()
        self.hooks = self

    def feature(self, column: int) -> int:
        return self.total

    def attached(self) -> dict[str, int]:
        return dict.fromkeys(self.standing, 0)

    def watch(self, program: str, wanted: bool) -> None:
        (self.standing.add if wanted else self.standing.discard)(program)


def test_a_disk_without_a_queue_of_its_own_is_said_to_tell_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "sys/block/dm-0"
    (folder / "slaves/sda").mkdir(parents=True)
    (folder / "dev").write_text("253:0\n")
    mapped = Target.block("dm-0", root=tmp_path)
    issue, complete = silent_hooks(find_module("slowio").manifest, mapped)
    assert issue == (
        "hook on_issue never runs on dm-0, which has no request queue of its own (as dm, md and "
        "zram); name a disk below it: sda; requests cannot be timed"
    )
    assert complete.startswith("hook on_complete never runs on dm-0")
    (folder / "mq").mkdir()  # as dm-multipath has, which is request-based
    assert silent_hooks(find_module("slowio").manifest, mapped) == []
    assert silent_hooks(find_module("dirty").manifest, Target.system(root=tmp_path)) == []


class _Replaced:
    """Plays the hooks of an agent on a kernel that lacks two tracepoints."""

    def missing(self) -> dict[str, str]:
        return {"on_sync": "this kernel has neither"}

    def replaced(self) -> dict[str, str]:
        return {"on_read": "on_read_entry", "on_fault": "on_fault_entry"}


def test_hooks_that_see_less_are_said(tmp_path: Path) -> None:
    manifest = find_module("readahead").manifest
    hooks: AgentHooks = _Replaced()  # type: ignore[assignment]
    assert lost_hooks(manifest, Target.system(root=tmp_path), hooks) == [
        "hook on_sync is missing: this kernel has neither; readahead started by a miss cannot be "
        "distinguished from readahead ahead of time",
        "hook on_read is at filemap_read instead, for this kernel cannot run it at "
        "mm_filemap_get_pages; files sent by sendfile or splice may go uncounted",
    ]


def test_a_hook_stands_while_its_counter_grows() -> None:
    agent = _Agent()
    watch = HookGating(find_module("readahead").manifest, agent)  # type: ignore[arg-type]
    agent.total = 10**9  # from before: says nothing of the pace
    watch.poll(10.0)
    assert not agent.standing
    agent.total += 400
    watch.poll(10.5)
    assert not agent.standing, "800 a second is below 1000"
    agent.total += 600
    watch.poll(11.0)
    assert agent.standing == {"on_read"}
    watch.poll(11.0 + QUIET_S - 0.1)
    assert agent.standing == {"on_read"}
    watch.poll(11.0 + QUIET_S + 0.1)
    assert not agent.standing


def test_an_experiment_keeps_the_hooks_that_it_counts_with() -> None:
    agent = _Agent()
    watch = HookGating(find_module("readahead").manifest, agent)  # type: ignore[arg-type]
    for now in (10.0, 10.5):
        watch.poll(now)
        agent.total += 10_000
    watch.poll(11.0)
    assert agent.standing == {"on_read"}
    for now in (12.0, 14.0, 16.0):
        watch.poll(now, keep=True)
    assert agent.standing == {"on_read"}
    watch.poll(16.0 + QUIET_S + 0.1)
    assert not agent.standing


def test_a_quiet_look_asks_the_agent_nothing() -> None:
    agent = _Agent()
    watch = HookGating(find_module("readahead").manifest, agent)  # type: ignore[arg-type]
    watch.poll(10.0)
    agent.total += 10**6
    watch.poll(11.0, quiet=True)
    assert not agent.standing, "no window closed: whatever counted has only begun to"
    watch.poll(11.5)
    assert agent.standing == {"on_read"}
    watch.poll(11.5 + QUIET_S + 0.1, quiet=True)
    assert not agent.standing, "a current value is checked also when it is quiet"


def test_a_hook_that_an_earlier_owner_attached_stands_at_first() -> None:
    agent = _Agent()
    agent.standing.add("on_read")
    watch = HookGating(find_module("readahead").manifest, agent)  # type: ignore[arg-type]
    watch.poll(10.0)
    watch.poll(10.0 + QUIET_S - 0.1)
    assert agent.standing == {"on_read"}
    watch.poll(10.0 + QUIET_S + 0.1)
    assert not agent.standing


@pytest.mark.kernel("tp_btf", "tp_filemap")
def test_a_deferred_hook_in_the_kernel(tmp_path: Path) -> None:
    folder = tmp_path
    module = find_module("readahead")
    params = {parameter.name: parameter.default for parameter in module.manifest.parameters}
    agent = make_bpf_agent(
        module,
        Target.block(device_of(folder)),
        params,  # type: ignore[arg-type]
        deadline_s=10.0,
    )
    columns = module.manifest.columns
    file = folder / "read"
    try:
        file.write_bytes(bytes(1 << 20))
        agent.start()
        assert "on_read" not in agent.hooks.attached()
        _read(file)
        assert agent.feature(columns["reads"]) == 0
        agent.hooks.watch("on_read", True)
        agent.hooks.watch("on_read", True)
        assert "on_read" in agent.hooks.attached()
        _read(file)
        seen = agent.feature(columns["reads"])
        assert seen >= 16
        agent.hooks.watch("on_read", False)
        agent.hooks.watch("on_read", False)
        assert "on_read" not in agent.hooks.attached()
        seen = agent.feature(columns["reads"])  # with those of others until then
        _read(file)
        assert agent.feature(columns["reads"]) == seen
    finally:
        agent.close()
        file.unlink()
    assert isinstance(agent, BpfAgent)


def _read(file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while stream.read(1 << 16):
            pass
