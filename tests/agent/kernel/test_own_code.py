# SPDX-License-Identifier: Apache-2.0
"""A module's object is not loaded if its own code uses the maps that all agents share."""

import re
from pathlib import Path

import pytest
from agents import BARE, compile_bpf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmind.abi.elf import read_relocations, read_sections, read_symbols
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.kernel.own_code import LIBRARY, refuse_shared_maps
from kmind.errors import KmindError, LoadError
from kmind.extension import list_modules

HEAD = "#include <kmind/agent.h>\n"
HOOK = 'SEC("tp_btf/task_rename")\nint KM_HOOK(on_it, void *task)\n{\n%s\n\treturn 0;\n}\n'
SYSCALL = 'SEC("syscall")\nint own(void *ctx)\n{\n%s\n\treturn 0;\n}\n'
LOOK = """
	__u32 one = 1;
	__u64 *held = bpf_map_lookup_elem(&%s, &one);

	if (held)
		*held = 7;
"""

HANDS_ON = {
    "a hook frees a lease": (HOOK % (LOOK % "km_leases"), "on_it uses km_leases"),
    "a hook approves for the gate": (HOOK % (LOOK % "km_approved"), "on_it uses km_approved"),
    "a program changes accounts": (SYSCALL % (LOOK % "km_instances"), "own uses km_instances"),
    "a program beats for the owner": (SYSCALL % (LOOK % "km_owner"), "own uses km_owner"),
    "a program tells of actions": (
        SYSCALL % '\tbpf_ringbuf_output(&km_actions, "12345678", 8, 0);\n',
        "own uses km_actions",
    ),
    "a function of its own": (
        "static __noinline int helper(void)\n{\n"
        + LOOK % "km_leases"
        + "\treturn 0;\n}\n"
        + SYSCALL % "\thelper();\n",
        "helper uses km_leases",
    ),
    "an address in data": (
        "struct {\n\t__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);\n\t__uint(max_entries, 1);\n"
        '\t__type(key, __u32);\n\t__array(values, typeof(km_owner));\n} own_maps SEC(".maps") = {'
        "\n\t.values = {[0] = &km_owner},\n};\n" + SYSCALL % (LOOK % "own_maps"),
        "own_maps uses km_owner",
    ),
    "a call that opens any map": (
        SYSCALL % "\tlong (*open)(int, void *, __u32) = (void *)166;\n\n\topen(14, ctx, 0);\n",
        "calls bpf_sys_bpf",
    ),
}


@pytest.mark.parametrize("what", HANDS_ON)
def test_a_module_that_uses_a_shared_map_is_refused(what: str, tmp_path: Path) -> None:
    text, message = HANDS_ON[what]
    source = tmp_path / "own.bpf.c"
    source.write_text(HEAD + text)
    made = compile_bpf(source, tmp_path / "own.bpf.o")
    with pytest.raises(LoadError, match=re.escape(message)):
        refuse_shared_maps(made)


def test_the_library_may_and_modules_are_loaded(tmp_path: Path) -> None:
    """The names are those of the library: each of them is one that uses a shared map."""
    for module in list_modules()[0]:
        refuse_shared_maps(module.object_path)
    made = compile_bpf(BARE, tmp_path / "bare.bpf.o")
    refuse_shared_maps(made)
    sections = read_sections(memoryview(made.read_bytes()), "bare")
    symbols = read_symbols(sections, "bare")
    (text,) = (each for each in sections if each.name == ".text")
    users = {
        each.name
        for each in symbols
        for used in read_relocations(sections, symbols, "bare")
        if used.symbol.name.startswith("km_")
        and used.section == each.section == text.number
        and each.offset <= used.offset < each.offset + each.size
    }
    assert users >= LIBRARY


def test_another_name_at_the_same_place_is_the_same_map(tmp_path: Path) -> None:
    source = tmp_path / "own.bpf.c"
    alias = 'extern typeof(km_leases) mine __attribute__((alias("km_leases")));\n'
    source.write_text(HEAD + alias + SYSCALL % (LOOK % "mine"))
    with pytest.raises(LoadError, match="own uses km_leases"):
        refuse_shared_maps(compile_bpf(source, tmp_path / "own.bpf.o"))


@pytest.mark.kernel("libbpf", "bpffs", "bpf_timer", "syscall", "tp_btf")
def test_it_is_not_loaded(tmp_path: Path) -> None:
    source = tmp_path / "own.bpf.c"
    source.write_text(HEAD + HANDS_ON["a hook frees a lease"][0])
    with pytest.raises(LoadError, match="on_it uses km_leases"):
        BpfAgent(compile_bpf(source, tmp_path / "own.bpf.o"), sq_slots=64, deadline_s=3600)


@pytest.fixture(scope="module")
def whole(bare: Path) -> bytes:
    return bare.read_bytes()


@given(at=st.integers(0, 1 << 20), new=st.binary(min_size=1, max_size=8))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_damage_is_one_error(whole: bytes, tmp_path: Path, at: int, new: bytes) -> None:
    at %= len(whole)
    path = tmp_path / "own.bpf.o"
    path.write_bytes(whole[:at] + new + whole[at + len(new) :])
    try:
        refuse_shared_maps(path)
    except KmindError as error:
        said = str(error)
        assert said
