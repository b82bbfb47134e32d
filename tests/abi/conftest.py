# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

import pytest
from abi.headers import ABI
from agents import compile_bpf

from kmind.abi.btf import Btf


@pytest.fixture(scope="module")
def abi(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """The BTF of the shared layout, compiled now."""
    target = tmp_path_factory.mktemp("abi") / "abi.bpf.o"
    return Btf.from_elf(compile_bpf(ABI / "abi.bpf.c", target))
