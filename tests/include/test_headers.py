# SPDX-License-Identifier: Apache-2.0
"""Each C header includes all that it uses: it compiles alone, and no two include each other."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from agents import compile_bpf

INCLUDE = Path(__file__).resolve().parents[2] / "src" / "kmind" / "include"
HEADERS = {
    str(path.relative_to(INCLUDE)): re.findall(
        r"(?m)^#include <(kmind/[\w/]+\.h)>", path.read_text()
    )
    for path in sorted(INCLUDE.rglob("*.h"))
}

# Only a module knows by how many numbers its agent decides, which functions it calls, and which of
# its counters has what was withdrawn.
ALONE = """
#pragma clang diagnostic ignored "-Wunused-function"
#define KM_MODEL_FEATURES 4
#define KM_WITHDRAWN 0
#include <{header}>
#include <{header}>
#ifdef KMIND_UNANSWERED_H
static bool km_waits_on(__u64 name) {{ return !!name; }}
#endif
"""


@pytest.mark.parametrize("header", HEADERS)
def test_header_compiles_alone(header: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.bpf.c"
    source.write_text(ALONE.format(header=header))
    assert compile_bpf(source, tmp_path / "alone.bpf.o").exists()


def test_headers_include_each_other_in_no_circle() -> None:
    TopologicalSorter(HEADERS).prepare()


@pytest.mark.parametrize("header", HEADERS)
def test_header_is_included_by_its_full_name(header: str) -> None:
    """As kmind/x.h: one include path serves the build and the authors of modules."""
    assert '#include "' not in (INCLUDE / header).read_text()
