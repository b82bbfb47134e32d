# SPDX-License-Identifier: Apache-2.0
"""Metrics of experiments: the agent's totals, and the kernel's pressure."""

from pathlib import Path

import pytest
from runtime.counted import MANIFEST, CountingAgent

from kmind.runtime.experiment.measure.metrics import Metrics


class _Rig:
    def __init__(self, folder: Path, agent: CountingAgent | None = None) -> None:
        self.now = 100.0
        self.agent = agent or CountingAgent()
        self.meter = Metrics(
            MANIFEST,
            self.agent,  # type: ignore[arg-type]
            now=lambda: self.now,
            pressure=folder,
        )

    def pass_time(self, seconds: float, **counts: int) -> None:
        self.now += seconds
        for name, by in counts.items():
            self.agent.totals[name] = (self.agent.totals[name] + by) % (1 << 64)


def pressure(folder: Path, name: str, microseconds: int) -> None:
    (folder / name).write_text(
        f"some avg10=0.00 avg60=0.00 avg300=0.00 total={microseconds}\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    )


def test_rates_and_ratios(tmp_path: Path) -> None:
    rig = _Rig(tmp_path)
    rig.agent.totals["faults"] = (1 << 64) - 100  # about to begin anew
    before = rig.meter.read()
    rig.pass_time(0.5, reads=300, faults=200, device_ns=6000, removed_pages=50)
    block = rig.meter.between(before, rig.meter.read())
    assert block.seconds == 0.5
    assert block.values == {"rate": 1000.0, "wait": 20.0, "cost": 25.0}
    assert block.guards == {"lost": 100.0}


def test_nothing_to_divide_by(tmp_path: Path) -> None:
    rig = _Rig(tmp_path)
    before = rig.meter.read()
    nothing = {"rate": None, "wait": None, "cost": None}
    assert rig.meter.between(before, before).values == nothing
    rig.pass_time(1.0)
    assert rig.meter.between(before, rig.meter.read()).values == nothing | {"rate": 0.0}


def test_a_cost_that_may_be_nought_has_a_floor(tmp_path: Path) -> None:
    rig = _Rig(tmp_path)
    before = rig.meter.read()
    rig.pass_time(1.0, reads=10)
    block = rig.meter.between(before, rig.meter.read())
    assert (block.values["wait"], block.values["cost"]) == (0.0, 5.0)


def test_pressure_guards_where_the_kernel_tells_it(tmp_path: Path) -> None:
    pressure(tmp_path, "io", 1_000_000)
    rig = _Rig(tmp_path)
    assert [guard.name for guard in rig.meter.guards()] == ["psi.io", "lost"]
    before = rig.meter.read()
    rig.pass_time(2.0)
    pressure(tmp_path, "io", 1_500_000)
    assert rig.meter.between(before, rig.meter.read()).guards["psi.io"] == 0.25


@pytest.mark.parametrize("text", [None, "", "nonsense\n", "full total=5\n"])
def test_a_kernel_without_pressure(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "io").write_text(text)
    assert [guard.name for guard in _Rig(tmp_path).meter.guards()] == ["lost"]


def test_a_simulated_agent_has_nothing_to_do_with_this_machine(tmp_path: Path) -> None:
    pressure(tmp_path, "io", 1)
    agent = CountingAgent()
    agent.backend = "sim"
    assert [guard.name for guard in _Rig(tmp_path, agent).meter.guards()] == ["lost"]
