# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of aa_noise and its neighbours."""

from runtime.counted import MANIFEST, CountingAgent

from kmind.runtime.experiment.measure.aa_noise import AaNoise
from kmind.runtime.experiment.measure.circumstances import Ledger


class _Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.agent = CountingAgent("sim")
        meter = Ledger(MANIFEST, self.agent, now=lambda: self.now)  # type: ignore[arg-type]
        self.calm = AaNoise(meter, 0.4, wash_out_s=0.2, now=lambda: self.now)

    def pass_time(self, seconds: float, **counts: int) -> None:
        self.now += seconds
        for name, by in counts.items():
            self.agent.totals[name] += by

    def blocks(self, count: int, reads: int) -> None:
        for _ in range(count):
            self.pass_time(0.4, reads=reads)
            self.calm.run_due()
