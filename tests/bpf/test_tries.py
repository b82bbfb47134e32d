# SPDX-License-Identifier: Apache-2.0
"""Features of the kernel, tried."""

import pytest

from kmind.bpf import _tries, machine, probe
from kmind.errors import NotSupportedError


@pytest.mark.kernel("btf", "bpffs")
def test_probes_see_what_is_not_there() -> None:
    with pytest.raises(NotSupportedError, match="this kernel has no no_such_tracepoint"):
        machine.tracepoints(("sched_switch", "no_such_tracepoint"))
    with pytest.raises(NotSupportedError, match="no bpf_iter_absent"):
        _tries.iterator("absent")
    with pytest.raises(NotSupportedError, match="not mounted; mount -t absentfs"):
        machine.mounted("absentfs", "/mnt")
    assert machine.mounted("bpf", "/sys/fs/bpf").startswith("/")


def test_struct_ops_that_libbpf_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise NotSupportedError("cannot load ssthresh of struct_ops.bpf.o: no")

    monkeypatch.setattr(_tries, "_kernel_struct_ops", lambda: None)
    monkeypatch.setattr(_tries.BpfObject, "load", refuse)
    found = probe.probe("struct_ops")
    assert found.state == "missing"
    assert "this kernel takes one, but libbpf" in found.cause
    assert "install libbpf 1.2 or later" in found.cause
