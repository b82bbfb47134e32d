# SPDX-License-Identifier: Apache-2.0
"""The reason of an emergency that the agent's tick has called, in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime.simulated import Simulated

from kmind.agent.sim.agent import SimAgent
from kmind.agent.types import Cause, Mode


@pytest.mark.parametrize("told", [True, False], ids=["by the ring", "by the level"])
@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (Cause.UNANSWERED, "the driver of {name} left a request unanswered for too long"),
        (Cause.STALLED, "the extension of {name} was silent for 1 s"),
    ],
)
def test_the_cause_is_said(tmp_path: Path, cause: Cause, reason: str, told: bool) -> None:
    simulated = Simulated(tmp_path)
    instance, agent = simulated.instance, simulated.spec.agent
    assert isinstance(agent, SimAgent)
    agent._enter_mode(Mode.EMERGENCY, cause)
    actions = agent.poll(0)
    if told:
        instance.handle(actions)
    else:
        instance.compare_mode()
    assert instance.failed == reason.format(name=instance.name)
    simulated.close()
