# SPDX-License-Identifier: Apache-2.0
"""iolat under the real daemon: a model is given to it, decides, and goes on over a reload."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.disks import direct, loop
from serve.real import Host, host
from sklearn.tree import DecisionTreeClassifier

from kmind.errors import KmindError
from kmind.infer import Feature, ModelFile, from_sklearn, quantise
from kmind.modules.iolat.recipe import COLUMNS

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")

SLOW_US = 1


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    with loop(tmp_path) as it:
        yield it


@pytest.fixture
def machine(tmp_path: Path, node: str) -> Iterator[Host]:
    with host(tmp_path) as it:
        yield it


def model(path: Path, slow_us: int) -> ModelFile:
    """Slow if it is a read: as every request of this test is."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (500, len(COLUMNS)))
    write = [column.name for column in COLUMNS].index("write")
    x[:, write] = rng.integers(0, 2, len(x))
    y = 1 - x[:, write]
    tree = DecisionTreeClassifier(max_depth=1).fit(x, y)
    features = [Feature(column.name, column.unit) for column in COLUMNS]
    card = {"notes": {"slow_us": slow_us}}
    file = quantise(from_sklearn(tree), x, (x, y), features=features, card=card)
    file.save(path)
    return file


def until(node: str, what: Callable[[], bool]) -> bool:
    """Wait until it has come about; read from the disk meanwhile, if one is given."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if node:
            direct(node, reads=50, size=4096)
        if what():
            return True
        time.sleep(0.1)
    raise AssertionError("it did not come about")


def test_a_model_decides_and_goes_on_over_a_reload(
    machine: Host, node: str, tmp_path: Path
) -> None:
    name = f"iolat@{Path(node).name}"
    other, right = tmp_path / "other.kmodel", tmp_path / "right.kmodel"
    model(other, SLOW_US + 1)
    file = model(right, SLOW_US)
    machine.start()
    machine.kmind("load", "iolat", Path(node).name, "--mode=observe", f"slow_us={SLOW_US}")

    def status() -> Any:
        return machine.instance(name)["status"]

    def decided() -> bool:
        return "balanced_accuracy" in status()

    def models() -> list[tuple[str, bool]]:
        found = machine.client.get(f"/v1/instances/{name}/model")["models"]
        return [(each["hash"], each["active"]) for each in found]

    def undecided() -> bool:
        return bool(status().get("model") == "none has decided lately")

    assert until(node, undecided)
    with pytest.raises(KmindError, match=f"trained with slow_us={SLOW_US + 1}"):
        machine.kmind("model", "deploy", str(other), name)
    assert models() == []
    machine.kmind("model", "deploy", str(right), name)
    assert models() == [(file.hash, True)]
    assert until(node, decided)

    # Its counters begin anew; what decides does not.
    machine.kmind("reload", name)
    assert machine.instance(name)["generation"] == 2
    assert models() == [(file.hash, True)]
    assert until("", undecided)
    assert until(node, decided)
    # The next daemon takes over the agent, and knows the model when it is upgraded once more.
    machine.kmind("daemon", "--replace")
    assert models() == [(file.hash, True)]
    machine.kmind("reload", name)
    assert models() == [(file.hash, True)]
    assert until("", undecided)
    assert until(node, decided)
    assert "has no model now" not in str(machine.log())
