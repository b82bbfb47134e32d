# SPDX-License-Identifier: Apache-2.0
"""A hook's alternatives do its work where the kernel cannot run its own program."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import compile_bpf
from renamers import NAME

from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.kernel.spec import Settings
from kmind.errors import NotSupportedError

HEAD = """\
#include <kmind/agent.h>

static __always_inline void count(__u32 feature)
{
	__u32 cpu;

	km_count(km_this_cpu(&cpu), feature, 1);
}
"""
# The hook's own program, and others in its place; each counts in a column of its own.
PROGRAMS = {
    "on_rename": 'SEC("tp_btf/kmind_absent")\nint KM_HOOK(on_rename, void *task)\n'
    "{\n\tcount(0);\n\treturn 0;\n}\n",
    "on_entry": 'SEC("fentry/kmind_absent")\nint KM_TASK_FUNCTION(on_entry, void *task)\n'
    "{\n\tcount(1);\n\treturn 0;\n}\n",
    "on_refused": 'SEC("tp_btf/task_rename")\nint KM_HOOK(on_refused, void *task)\n'
    "{\n\tlong (*absent)(void) = (void *)9999;\n\n\tcount(2);\n\treturn absent();\n}\n",
    "on_present": 'SEC("tp_btf/task_rename")\nint KM_HOOK(on_present, void *task)\n'
    "{\n\tcount(3);\n\treturn 0;\n}\n",
    "on_second": 'SEC("tp_btf/task_rename")\nint KM_HOOK(on_second, void *task)\n'
    "{\n\tcount(4);\n\treturn 0;\n}\n",
}
OTHERS = ("on_entry", "on_refused", "on_present", "on_second")
HOOKS = {"on_rename": "kmind_absent"}
COMM = Path("/proc/self/comm")

pytestmark = pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall", "tp_btf")


def built(folder: Path, *others: str) -> Path:
    """An object with the hook's own program and these."""
    source = folder / f"{'_'.join(others)}.bpf.c"
    source.write_text("\n".join([HEAD, *(PROGRAMS[name] for name in ("on_rename", *others))]))
    return compile_bpf(source, source.with_suffix(".o"))


@pytest.fixture
def renamed() -> Iterator[None]:
    before = COMM.read_text()
    yield
    COMM.write_text(before)


def settings(*others: str) -> Settings:
    return Settings(hooks=HOOKS, alternatives={"on_rename": others}, deadline_s=3600)


def counted(agent: BpfAgent) -> list[int]:
    """Runs of each program during one more rename, that of this process's main thread."""
    before = [agent.feature(column) for column in range(5)]
    COMM.write_text("kmind-renamed")
    return [agent.feature(column) - old for column, old in enumerate(before)]


def test_the_first_that_loads_does_the_work(root: Path, tmp_path: Path, renamed: None) -> None:
    choices = built(tmp_path, *OTHERS)
    core = Core.open(root)
    slot = core.register(NAME, "choices", "reporter")
    agent = BpfAgent(choices, core=core, slot=slot, sq_slots=64, **settings(*OTHERS))
    agent.pin(core.folder(NAME))
    agent.start()
    # Other tasks may rename themselves meanwhile, so the count is at least one.
    for _ in range(2):
        assert agent.hooks.attached().keys() == {"on_rename"}
        assert agent.hooks.replaced() == {"on_rename": "on_present"}
        assert agent.hooks.missing() == {}
        *absent, here, twice = counted(agent)
        assert here >= 1
        assert [*absent, twice] == [0, 0, 0, 0]
        agent.hooks.watch("on_rename", False)
        assert agent.hooks.attached() == {}
        assert counted(agent) == [0] * 5
        agent.hooks.watch("on_rename", True)
        # The next owner finds it by its pins, and an upgrade chooses it again.
        agent.release()
        agent = BpfAgent.adopt(
            core.folder(NAME), core=core, slot=slot, hooks=HOOKS, alternatives={"on_rename": OTHERS}
        )
        assert agent.hooks.replaced() == {"on_rename": "on_present"}
        assert counted(agent)[3] >= 1
        agent.upgrade(choices, **settings(*OTHERS))
    agent.close()
    core.remove()


def test_a_deferred_hook_waits_by_its_own_name(tmp_path: Path, renamed: None) -> None:
    choices = built(tmp_path, "on_present")
    agent = BpfAgent(choices, sq_slots=64, deferred=["on_rename"], **settings("on_present"))
    agent.start()
    assert agent.hooks.attached() == {}
    agent.hooks.watch("on_rename", True)
    assert counted(agent)[3] >= 1
    agent.close()


def test_a_hook_without_any_is_one_clear_line(tmp_path: Path) -> None:
    choices = built(tmp_path, "on_entry")
    with pytest.raises(NotSupportedError) as caught:
        BpfAgent(choices, sq_slots=64, **settings("on_entry"))
    assert str(caught.value) == (
        "this kernel has no tracepoint kmind_absent, and this kernel has no function kmind_absent, "
        "which hook on_rename needs; see kmind doctor"
    )
    agent = BpfAgent(choices, sq_slots=64, optional=["on_rename"], **settings("on_entry"))
    assert agent.hooks.missing() == {
        "on_rename": "this kernel has no tracepoint kmind_absent, and "
        "this kernel has no function kmind_absent"
    }
    agent.start()
    assert agent.hooks.attached() == {}
    agent.close()


def test_what_the_verifier_refuses_is_said(tmp_path: Path) -> None:
    choices = built(tmp_path, "on_refused")
    with pytest.raises(NotSupportedError) as caught:
        BpfAgent(choices, sq_slots=64, **settings("on_refused"))
    message = str(caught.value)
    assert message.startswith(
        "this kernel has no tracepoint kmind_absent, and cannot load on_refused"
    )
    assert message.endswith(", which hook on_rename needs; see kmind doctor")
    assert "\n" not in message
    agent = BpfAgent(choices, sq_slots=64, optional=["on_rename"], **settings("on_refused"))
    assert agent.hooks.missing().keys() == {"on_rename"}
    agent.close()


def test_a_program_at_a_function_that_no_hook_names_is_left_out(tmp_path: Path) -> None:
    """A module that loads another's object, with hooks of its own, need not know of them."""
    agent = BpfAgent(
        built(tmp_path, "on_entry", "on_present"),
        hooks=HOOKS | {"on_present": "task_rename"},
        optional=["on_rename"],
        deadline_s=3600,
    )
    try:
        agent.start()
        assert set(agent.hooks.attached()) == {"on_present"}
    finally:
        agent.close()
