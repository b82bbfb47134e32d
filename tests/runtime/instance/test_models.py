# SPDX-License-Identifier: Apache-2.0
"""Models that a supervisor gives to agents: whole or not at all, and again after an upgrade."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmind.errors import ModelError
from kmind.infer.features import Feature
from kmind.infer.model_file import ModelFile
from kmind.infer.packing.slot import read_slot
from kmind.runtime.instance.models import DeployedModels, active, deploy, roll_back, show
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.testing.models import random_trees


class Slots:
    """Two slots in memory, for three features."""

    def __init__(self) -> None:
        self.held: list[bytes] = []
        self.version = 0

    def deploy(self, slot: bytes) -> int:
        if len(read_slot(slot).input) != 3:
            raise ModelError("it has another number of features")
        self.held = [slot, *self.held[:1]]
        self.version += 1
        return self.version

    def rollback(self) -> int:
        if len(self.held) < 2:
            raise ModelError("there is no earlier model to go back to")
        self.held.reverse()
        return self.version

    def slots(self) -> list[Mapping[str, Any]]:
        return [
            {"hash": slot[16:48].hex(), "active": number == 0}
            for number, slot in enumerate(self.held)
        ]


def file(seed: int, features: int = 3) -> ModelFile:
    model = random_trees(np.random.default_rng(seed), 3, 3, features, 1, norms=False)
    labels = ("no", "yes") if model.output.kind == "threshold" else ()
    return ModelFile(model, tuple(Feature(f"f{i}") for i in range(features)), labels)


def test_a_model_is_deployed_and_rolled_back() -> None:
    agent, known = Slots(), DeployedModels()
    assert active(agent) is None
    first, second = file(1), file(2)
    assert deploy(agent, known, first.to_bytes(), {})["before"] is None
    done = deploy(agent, known, second.to_bytes(), {})
    assert (done["hash"], done["before"], done["version"]) == (second.hash, first.hash, 2)
    assert [each["hash"] for each in show(agent)] == [second.hash, first.hash]
    assert roll_back(agent)["hash"] == active(agent) == first.hash


def test_what_is_refused_changes_nothing() -> None:
    agent, known = Slots(), DeployedModels()
    deploy(agent, known, file(1).to_bytes(), {})
    odd = file(2)
    forged = ModelFile(odd.model, odd.features, odd.classes, {"selftest": "0" * 64})
    for data, why in (
        (b"rubbish", "not a kmind model file"),
        (file(2, features=4).to_bytes(), "another number of features"),
        (forged.to_bytes(), "differ from those when it was made"),
    ):
        with pytest.raises(ModelError, match=why):
            deploy(agent, known, data, {})
    with pytest.raises(ModelError, match="no earlier model"):
        roll_back(agent)
    assert active(agent) == file(1).hash
    assert list(known.slots) == [file(1).hash]


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ({}, "does not say with which slow_us"),
        ({"notes": "slow_us=850"}, "does not say with which slow_us"),
        ({"notes": {"slow": 850}}, "does not say with which slow_us"),
        ({"notes": {"slow_us": 351}}, "trained with slow_us=351, and the instance has slow_us=850"),
        ({"notes": {"slow_us": "850"}}, "slow_us='850'"),
        ({"notes": {"slow_us": True}}, "slow_us=True"),
        ({"notes": {"slow_us": ["\n" * 99]}}, "trained with slow_us="),
    ],
)
def test_a_model_that_was_trained_for_something_else_is_refused(
    card: dict[str, Any], why: str
) -> None:
    agent, known, made = Slots(), DeployedModels(), file(1)
    noted = ModelFile(made.model, made.features, made.classes, {}, card)
    with pytest.raises(ModelError, match=why) as caught:
        deploy(agent, known, noted.to_bytes(), {"slow_us": 850})
    assert "\n" not in str(caught.value)
    assert (agent.held, known.slots) == ([], {})
    right = ModelFile(made.model, made.features, made.classes, {}, {"notes": {"slow_us": 850}})
    assert deploy(agent, known, right.to_bytes(), {"slow_us": 850})["version"] == 1


def test_an_upgraded_agent_is_given_the_model_that_decided() -> None:
    agent, known = Slots(), DeployedModels()
    for seed in (1, 2, 3, 2, 4):
        deploy(agent, known, file(seed).to_bytes(), {})
    roll_back(agent)
    deciding = active(agent)
    assert deciding == file(2).hash
    upgraded = Slots()
    assert known.again(upgraded, deciding) == ""
    assert active(upgraded) == deciding
    # One that is forgotten, and one that the upgraded agent refuses, leave it without.
    assert "deploy it again" in known.again(Slots(), file(1).hash)
    known.keep("wide", file(1, features=4).slot())
    assert "another number of features" in known.again(Slots(), "wide")
    assert known.again(Slots(), None) == ""


def test_the_next_daemon_knows_them_too(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    known = DeployedModels()
    deploy(Slots(), known, file(1).to_bytes(), {})
    folder.save_models("a@vda", known)
    assert StateFolder(tmp_path / "state").load_models("a@vda") == known
    assert folder.load_models("b@vda") == DeployedModels()
    (tmp_path / "state" / "a@vda.models").write_bytes(b"\xc1")
    assert folder.load_models("a@vda") == DeployedModels()
    folder.remove("a@vda")
    assert not list((tmp_path / "state").iterdir())
