# SPDX-License-Identifier: Apache-2.0
"""Models from file to hook: through a supervisor, an upgrade, and the next supervisor."""

from pathlib import Path

import numpy as np
import pytest
from agents import compile_bpf
from runtime.supervised import Rig
from sample_module import MANIFEST

from kmind.errors import ModelError
from kmind.infer.features import Feature
from kmind.infer.model_file import ModelFile
from kmind.testing.models import random_trees

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer")

DECIDES = Path(__file__).parents[2] / "agent" / "decides.bpf.c"
FEATURES = (Feature("depth"), Feature("latency", "ns"), Feature("bytes", "bytes"))
IDLE = """\
from kmind.extension import Extension


class Sample(Extension):
    pass
"""
DECIDER = (
    MANIFEST[: MANIFEST.index("[[parameter]]")]
    .replace("readahead.bpf.c", DECIDES.name)
    .replace('kind = "block"', 'kind = "system"')
    + "[model]\nbudget_ns = 2000\n"
    + "".join(
        f'[[model.feature]]\nname = "{feature.name}"\nunit = "{feature.unit}"\n'
        for feature in FEATURES
    )
)


def model(seed: int, features: tuple[Feature, ...] = FEATURES, trees: int = 3) -> ModelFile:
    made = random_trees(
        np.random.default_rng(seed), trees, 4, len(features), 1, complete=True, norms=False
    )
    labels = ("no", "yes") if made.output.kind == "threshold" else ()
    return ModelFile(made, features, labels)


def test_from_file_to_hook_and_over_an_upgrade(rig: Rig) -> None:
    folder = Path(rig.module(extension=IDLE, manifest=DECIDER))
    compile_bpf(DECIDES, folder / "decides.bpf.o")
    supervisor = rig.start()
    name = rig.load(str(folder), "system", mode="observe")
    assert supervisor.requests.models(name) == []
    first, second = model(1), model(2)
    assert supervisor.requests.deploy_model(name, first.to_bytes())["before"] is None
    assert supervisor.requests.deploy_model(name, second.to_bytes())["before"] == first.hash
    for wrong, why in (
        (model(3, (*FEATURES[:2], Feature("bytes", "KiB"))), "features"),
        (model(3, FEATURES[:2]), "features"),
        (model(3, trees=2000), "budget|bytes"),
    ):
        with pytest.raises(ModelError, match=why):
            supervisor.requests.deploy_model(name, wrong.to_bytes())

    def deciding() -> str:
        return next(
            str(each["hash"]) for each in supervisor.requests.models(name) if each["active"]
        )

    assert deciding() == second.hash
    assert supervisor.requests.rollback_model(name)["hash"] == deciding() == first.hash

    # Another kind of walk or not: the upgraded programs begin anew, and are given it again.
    supervisor.requests.reload(name)
    assert deciding() == first.hash

    supervisor.close(keep=True)
    supervisor = rig.start()
    assert deciding() == first.hash
    supervisor.requests.reload(name)
    assert deciding() == first.hash
    assert not [each for each in rig.of("log") if "has no model now" in str(each)]
