# SPDX-License-Identifier: Apache-2.0
"""Costs of a process tree and its eBPF programs, on real processes and programs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from agents import compile_bpf

from kmind.bench import _instance
from kmind.bench._instance import CpuSample
from kmind.bpf import BpfObject
from kmind.errors import KmindError

SPIN = Path(__file__).with_name("spin.bpf.c")


def test_shares_are_taken_between_the_last_samples():
    samples = [
        CpuSample(0, 0, 0),
        CpuSample(1, 0.9, 0),
        CpuSample(2, 0.91, 0.01),
        CpuSample(4, 0.93, 0.03),
    ]
    late = np.array(_instance.cpu_shares(samples, 3))
    assert late == pytest.approx(np.array([[1, 1], [1, 1]]))
    assert len(_instance.cpu_shares(samples, 99)) == 3


def test_the_cpu_time_of_a_child_counts():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    pids = [parent.pid]
    try:
        while len(pids) < 2:
            pids = _instance.tree(parent.pid)
        assert pids[0] == parent.pid
        with _instance.sampled([parent.pid], 0.05) as samples:
            while not samples or samples[-1].processes < 0.3:
                time.sleep(0.05)
        assert samples[-1].at > samples[0].at
        assert samples[-1].processes > samples[0].processes
    finally:
        for pid in reversed(pids):
            os.kill(pid, 9)
        parent.wait()


def test_what_has_ended_costs_nothing():
    process = subprocess.Popen(["true"])
    process.wait()
    sample = _instance._sample([process.pid])
    assert (sample.processes, sample.programs) == (0, 0)


@pytest.mark.kernel("syscall")
def test_the_run_time_of_programs_is_kept_while_asked_for(tmp_path):
    path = compile_bpf(SPIN, tmp_path / "spin.bpf.o")
    with BpfObject(path) as spin:
        spin.load()
        program = spin.programs["spin"]
        with _instance.agent_statistics():
            for _ in range(100):
                program.test_run((100).to_bytes(8, "little"))
        kept = _instance._programs(os.getpid())[program.id]
        assert kept > 0
        assert _instance._sample([os.getpid()]).programs >= kept / 1e9


@pytest.mark.kernel("tp_btf")
def test_an_instance_that_cannot_start_says_why():
    with pytest.raises(KmindError, match=r"ended with status [1-9].*nosuchdisk"):  # noqa: SIM117
        with _instance.kmind_beside("nosuchdisk", "auto"):
            pytest.fail("it started")
