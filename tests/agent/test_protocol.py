# SPDX-License-Identifier: Apache-2.0
"""Both agents have all that their owner may ask of one, with the same parameters."""

import inspect
import re

import pytest

from kmind.agent import protocol
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.sim.agent import SimAgent


def members(kind: type) -> dict[str, object]:
    return {
        name: member
        for base in kind.__mro__
        for name, member in vars(base).items()
        if not name.startswith("_")
    }


@pytest.mark.parametrize("kind", [BpfAgent, SimAgent])
def test_agent_has_what_the_protocol_names(kind: type) -> None:
    # Attributes are those that the class's own source assigns.
    assigned = re.findall(r"self\.([a-z]\w*)", inspect.getsource(kind))
    assert set(members(protocol.Agent)) <= {*members(kind), *assigned}


@pytest.mark.parametrize("kind", [BpfAgent, SimAgent])
def test_calls_take_the_same_parameters(kind: type) -> None:
    own = members(kind)
    for name, member in members(protocol.Agent).items():
        if not inspect.isfunction(member):
            continue
        wanted = list(inspect.signature(member).parameters)
        offered = inspect.signature(own[name]).parameters  # type: ignore[arg-type]
        assert list(offered)[: len(wanted)] == wanted, name
        more = list(offered.values())[len(wanted) :]
        assert all(each.default is not inspect.Parameter.empty for each in more), name
