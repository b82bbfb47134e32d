# SPDX-License-Identifier: Apache-2.0
"""``[driver]``: hostile input is one clear line, and the ready agent's parts are merged in."""

from pathlib import Path

import pytest
from extension.manifests import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmind.errors import KmindError, ModuleError
from kmind.extension import find_module, load_manifest

GOOD = """\
name = "sample"
version = "1"
class = "driver"
description = "A disk."
author = "A. Author"
licence = "Apache-2.0"

[extension]
entry = "extension:Sample"

[target]
kind = "system"

[driver]
kind = "block"
depth = 16
max_io_kib = 256
on_failure = "recover"
replay = "safe"
stall_ms = 500
memory = "size_mib"

[[driver.knob]]
name = "latency"
unit = "us"
minimum = 0
maximum = 1000
default = 5
help = "How late answers are."

[limits]
memory_mib = 128

[[parameter]]
name = "size_mib"
type = "int"
default = 8
help = "Size of the disk."
"""
OWN_HOOK = '\n[[hook]]\nprogram = "x"\ntracepoint = "y"\n'
BROKEN = [
    ('kind = "block"', 'kind = "fs"', "driver.kind: 'fs' is not there; there is block"),
    ('kind = "block"', 'kind = "\\u0000"', "driver.kind: "),
    ("depth = 16", "depth = 0", "driver.depth: "),
    ("depth = 16", "depth = 1024", "driver: 1024 requests of 256 KiB, and its process, take 304 M"),
    ("max_io_kib = 256", "max_io_kib = 6", "driver.max_io_kib: "),
    ("max_io_kib = 256", "max_io_kib = 2048", "driver.max_io_kib: "),
    ('"recover"', '"bypass"', "driver.on_failure: 'bypass' is not there yet: nothing of the runt"),
    ('"recover"', '"pray"', "driver.on_failure: 'pray' is neither recover nor fail"),
    ('"safe"', '"unsafe"', "driver.on_failure: recover does requests again, which needs replay"),
    ('"safe"', '"perhaps"', "driver.replay: "),
    ("stall_ms = 500", "stall_ms = 1", "driver.stall_ms: "),
    ("stall_ms = 500", "stall_ms = 1e9", "driver.stall_ms: "),
    ('"size_mib"\n\n', '"nothing"\n\n', "driver.memory: 'nothing' is no parameter of type int"),
    ("default = 5", "default = 5000", "driver.knob[0]: knob latency: the default 5000 is not from"),
    ("maximum = 1000", "maximum = 1" + 30 * "0", ""),
    ('name = "latency"', 'name = "Late Ncy"', "driver.knob[0].name: "),
    ("[limits]", "[driver.more]\n[limits]", "driver.more: "),
    ('"system"', '"block"', "target.kind: a driver makes its device, so its target is the system"),
    ("[limits]", '[[knob]]\nname = "vm.swappiness"\n[limits]', "knob[0]: a driver sets no knobs;"),
    ("[limits]", OWN_HOOK + "[limits]", "hook[0]: needs an agent of the module's own, [agent]"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_broken(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ModuleError) as caught:
        load_manifest(path)
    at, _, said = str(caught.value).removeprefix(f"{path}:").partition(": ")
    assert at.isdecimal()
    assert said.startswith(message)
    assert "\n" not in said


def test_a_knob_is_named_once(tmp_path: Path) -> None:
    knob = GOOD[GOOD.index("[[driver.knob]]") : GOOD.index("[limits]")]
    path = write(tmp_path, GOOD.replace("[limits]", f"{knob}[limits]"))
    with pytest.raises(
        ModuleError, match=r"driver\.knob\[1\]\.name: 'latency' occurs more than once"
    ):
        load_manifest(path)


def test_a_driver_says_what_it_serves_and_others_have_an_agent(tmp_path: Path) -> None:
    start, end = GOOD.index("[driver]"), GOOD.index("[limits]")
    with pytest.raises(ModuleError, match="driver: a driver needs it: say what device it serves"):
        load_manifest(write(tmp_path, GOOD[:start] + GOOD[end:]))
    with pytest.raises(ModuleError, match="agent: missing; only a driver has one ready"):
        load_manifest(
            write(tmp_path, (GOOD[:start] + GOOD[end:]).replace('"driver"', '"reporter"'))
        )


def test_the_ready_agent_is_that_of_the_kind(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    assert manifest.driver is not None
    assert manifest.driver.knobs[0].default == 5
    assert manifest.driver.max_io == 256 << 10
    assert "on_end" in [hook.program for hook in manifest.hooks]
    assert find_module("ram").object_path.name == "block.bpf.o"


@given(st.binary(max_size=400), st.integers(0, len(GOOD)), st.integers(0, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_a_manifest_or_an_error(
    tmp_path: Path, data: bytes, start: int, length: int
) -> None:
    path = tmp_path / "module.toml"
    path.write_bytes(GOOD.encode()[:start] + data + GOOD.encode()[start + length :])
    assert "\n" not in refusal(path)


def refusal(path: Path) -> str:
    """The refusal of a manifest; "" of a good one."""
    try:
        load_manifest(path)
    except KmindError as error:
        return str(error)
    return ""
