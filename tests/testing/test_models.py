# SPDX-License-Identifier: Apache-2.0
"""Random models are of all kinds."""

import numpy as np

from kmind.infer.integer import IntMlp
from kmind.infer.reference import evaluate
from kmind.testing.models import random_inputs, random_model


def test_random_models_are_not_all_alike() -> None:
    """The models for tests of evaluators reach both labels, tables, norms and saturation."""
    seen: set[str] = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        model = random_model(rng)
        decisions = evaluate(model, random_inputs(rng, model, 60))
        kind = type(model).__name__
        seen |= {kind, model.output.kind, model.input.norm}
        if len(np.unique(decisions.label)) > 1:
            seen.add(f"{kind} {model.output.kind} varies")
        if len(np.unique(decisions.probability)) > 2:
            seen.add(f"{kind} probability varies")
        if isinstance(model, IntMlp):
            seen |= {
                "table" for layer in model.layers if layer.step and layer.step.table is not None
            }
        else:
            seen.add(f"width {min(model.width, 2)}")
    assert seen == {
        "IntMlp", "IntTrees", "value", "threshold", "argmax", "none", "l1", "l2", "max",
        "table", "width 1", "width 2",
        *(f"{kind} {output} varies" for kind in ("IntMlp", "IntTrees")
          for output in ("threshold", "argmax")),
        *(f"{kind} probability varies" for kind in ("IntMlp", "IntTrees")),
    }  # fmt: skip
