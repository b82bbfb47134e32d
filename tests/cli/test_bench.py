# SPDX-License-Identifier: Apache-2.0
"""A bench that is ended puts back what it changed."""

import os
import signal
import time

import pytest

from kmind.bench import queue
from kmind.cli.bench import bench_command


def test_a_signal_ends_a_bench_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back = []

    def run(*, quick: bool) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            put_back.append(quick)

    monkeypatch.setattr(queue, "run_queue_bench", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        bench_command("queue", quick=True, json=True, options={})
    assert ended.value.code == 128 + signal.SIGTERM
    assert put_back == [True]
    assert signal.getsignal(signal.SIGTERM) == before
