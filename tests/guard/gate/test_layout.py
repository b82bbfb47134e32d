# SPDX-License-Identifier: Apache-2.0
"""Structs that Python reads and writes as the compiler has laid them out."""

import re
from pathlib import Path
from struct import Struct, calcsize

import numpy as np
import pytest
from agents import compile_bpf

import kmind.guard
from kmind.abi.btf import Btf
from kmind.guard import openfiles
from kmind.guard.gate import _layout

GUARD = Path(kmind.guard.__file__).parent
STRUCTS = {
    "gate_name": _layout.NAME,
    "kmind_grant_key": _layout.KEY,
    "gate_file": _layout.FILE,
    "gate_held": _layout.HELD,
    "kmind_approved": _layout.APPROVED,
    "gate_event": _layout._EVENT,
}


def fields_of(dtype: np.dtype[np.void], start: int = 0) -> list[tuple[int, int]]:
    """Return offset and size of each number or text, inner structs taken apart."""
    fields = []
    for name in dtype.names or ():
        inner, offset = (dtype.fields or {})[name][:2]
        if inner.names is None:
            fields.append((start + offset, inner.itemsize))
        else:
            fields += fields_of(inner, start + offset)
    return fields


def fields_of_format(struct: Struct) -> list[tuple[int, int]]:
    """Return the same of a format without padding, in which each part is one field."""
    order, parts = struct.format[0], re.findall(r"\d*[a-zA-Z]", struct.format)
    sizes = [calcsize(order + part) for part in parts]
    return [(sum(sizes[:count]), size) for count, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """The types of the gate's programs, compiled now."""
    source = tmp_path_factory.mktemp("gate") / "layout.bpf.c"
    names = "".join(f"struct {name} *the_{name};\n" for name in STRUCTS)
    source.write_text(f'#include "{GUARD}/gate/gate.bpf.c"\n{names}')
    return Btf.from_elf(compile_bpf(source, source.with_suffix(".o")))


@pytest.mark.parametrize("name", STRUCTS)
def test_format_is_the_struct(gate: Btf, name: str) -> None:
    assert fields_of_format(STRUCTS[name]) == fields_of(gate.dtype(name))


def test_record_of_open_files_is_the_struct(tmp_path: Path) -> None:
    source = tmp_path / "openfiles.bpf.c"
    text = (GUARD / "openfiles.bpf.c").read_text()
    source.write_text(f"{text}\nstruct open_file *the_record;\n")
    record = Btf.from_elf(compile_bpf(source, source.with_suffix(".o"))).dtype("open_file")
    assert fields_of(record) == fields_of(openfiles._RECORD)
    assert record.names == openfiles._RECORD.names
