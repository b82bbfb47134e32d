# SPDX-License-Identifier: Apache-2.0
"""layout.py is what kmind/abi.h says: to the BPF compiler, to the host's, and to Python."""

import itertools
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abi.headers import ENUMS, INCLUDE
from agents import ROOT, compile_bpf
from programs import program

from kmind.abi import layout
from kmind.abi.btf import Btf
from kmind.abi.generate import STRUCTS
from kmind.extension import load_manifest
from kmind.queue.completion import check_words

READAHEAD = ROOT / "src" / "kmind" / "modules" / "readahead"
# Enumerators begin with the name of their enum; these do not.
PREFIXES = {
    "LIMIT": "",
    "RULE_OP": "RULE_",
    "ACTION_KIND": "ACTION_",
    "CONTROL_OP": "CONTROL_",
    "CORE_OP": "CORE_",
}


def constants() -> dict[str, int]:
    """Each enumerator of kmind/abi.h that layout.py knows, to the value that it has there."""
    return {
        f"KMIND_{PREFIXES.get(name, name + '_')}{key}": value
        for name in ENUMS
        for key, value in getattr(layout, name).items()
    } | {"KMIND_MAGIC": layout.MAGIC}


def _members(name: str, dtype: Any, path: str = "") -> list[tuple[str, int, int]]:
    # (member as C names it, offset, size), nested ones too.
    rows = []
    for field in dtype.names:
        kind, offset = dtype.fields[field][:2]
        rows.append((f"{path}{field}", offset, kind.itemsize))
        base = kind.base
        if base.names:
            index = "[0]" if kind.shape else ""
            rows += [
                (member, offset + inner, size)
                for member, inner, size in _members(name, base, f"{path}{field}{index}.")
            ]
    return rows


@pytest.mark.parametrize("compiler", ["cc", "clang-19"])
def test_the_host_lays_it_out_alike(tmp_path: Path, compiler: str) -> None:
    """A C program prints sizes, offsets and constants; kmind/abi.h serves the host as it is."""
    found = program(compiler)
    expected: list[str] = []
    lines = ["#include <stddef.h>\n#include <stdio.h>\n#include <kmind/abi.h>", "int main(void)\n{"]
    for name in STRUCTS:
        dtype = getattr(layout, name.upper())
        struct = f"struct kmind_{name}"
        lines.append(f'printf("{name} %zu\\n", sizeof({struct}));')
        expected.append(f"{name} {dtype.itemsize}")
        for member, offset, size in _members(name, dtype):
            lines.append(
                f'printf("{name}.{member} %zu %zu\\n", offsetof({struct}, {member}), '
                f"sizeof((({struct} *)0)->{member}));"
            )
            expected.append(f"{name}.{member} {offset} {size}")
    for constant, value in constants().items():
        lines.append(f'printf("{constant} %llu\\n", (unsigned long long){constant});')
        expected.append(f"{constant} {value}")
    source = tmp_path / "host.c"
    source.write_text("\n".join([*lines, "return 0;\n}\n"]))
    built = tmp_path / "host"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", str(INCLUDE)]
    subprocess.run([found, *flags, str(source), "-o", str(built)], check=True)
    printed = subprocess.run([built], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == expected


def test_the_check_is_computed_alike(tmp_path: Path) -> None:
    found = program("cc")
    choose = random.Random(4)
    rows = [[choose.getrandbits(64) for _ in range(6)] for _ in range(50)]
    rows += [[0] * 6, [(1 << 64) - 1] * 6]
    source = tmp_path / "mix.c"
    source.write_text(
        "#include <stdio.h>\n#include <kmind/abi.h>\n"
        "static const __u64 words[] = {"
        + ",".join(f"{word}ULL" for word in itertools.chain(*rows))
        + "};\nint main(void)\n{\n"
        f"for (int row = 0; row < {len(rows)}; row++) {{\n"
        "__u64 hash = KMIND_CHECK_SEED;\n"
        "for (int i = 0; i < 6; i++) hash = kmind_mix(hash, words[row * 6 + i]);\n"
        'printf("%llu\\n", (unsigned long long)hash);\n}\nreturn 0;\n}\n'
    )
    built = tmp_path / "mix"
    subprocess.run([found, "-I", str(INCLUDE), str(source), "-o", str(built)], check=True)
    printed = subprocess.run([built], capture_output=True, text=True, check=True)
    computed = [check_words(np.array([*row, 0, 0], np.uint64)) for row in rows]
    assert [int(line) for line in printed.stdout.split()] == computed


def test_features_of_readahead_stand_in_the_order_of_its_manifest(tmp_path: Path) -> None:
    built = compile_bpf(READAHEAD / "readahead.bpf.c", tmp_path / "readahead.bpf.o")
    columns = Btf.from_elf(built).enums["readahead_feature"]
    manifest = load_manifest(READAHEAD / "module.toml")
    assert {f"RA_{name.upper()}": column for name, column in manifest.columns.items()} == columns
