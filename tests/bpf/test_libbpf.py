# SPDX-License-Identifier: Apache-2.0
"""Machines without libbpf, or with an old one."""

import subprocess
import sys
from pathlib import Path

import pytest

from kmind.bpf import _libbpf, probe
from kmind.util.packages import install_hint


def test_a_machine_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libbpf, "LIBRARY", "libbpf-absent.so.1")
    _libbpf.lib.cache_clear()
    try:
        result = probe.probe("libbpf")
        assert (result.state, result.required) == ("missing", True)
        hint = install_hint("libbpf", "1.1 or later")
        assert result.cause == f"libbpf-absent.so.1 is not installed; {hint}"
    finally:
        monkeypatch.undo()
        _libbpf.lib.cache_clear()


# What a module's struct_ops would be loaded by: libbpf, and nothing else of kmind's.
LOADS = """
import ctypes, sys

libbpf = ctypes.CDLL(sys.argv[1])
libbpf.bpf_object__open_file.restype = ctypes.c_void_p
libbpf.bpf_object__load.argtypes = [ctypes.c_void_p]
opened = libbpf.bpf_object__open_file(sys.argv[2].encode(), None)
sys.exit(0 if opened and libbpf.bpf_object__load(opened) == 0 else 1)
"""


@pytest.mark.kernel("libbpf", "btf")
def test_struct_ops_are_said_to_work_where_libbpf_loads_one() -> None:
    there = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    before = there.read_text()
    found = probe.probe("struct_ops")
    path = Path(probe.__file__).with_name("struct_ops.bpf.o")
    argv = [sys.executable, "-c", LOADS, _libbpf.LIBRARY, str(path)]
    loads = subprocess.run(argv, capture_output=True, check=False).returncode == 0
    assert (found.state == "ok") is loads
    assert "libbpf" in found.cause or loads
    assert there.read_text() == before  # nothing was registered
