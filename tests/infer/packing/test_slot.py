# SPDX-License-Identifier: Apache-2.0
"""Slots: what an agent holds of a model."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infer.hostile import hostile_model
from infer.sealed import load_or_none, parts, resealed, sealed_slot, whole
from scalar_model import decide

from kmind.errors import ModelError
from kmind.infer.packing.cost import estimate_ns
from kmind.infer.packing.pack import model_image
from kmind.infer.packing.slot import NODE, read_slot, slot_bytes
from kmind.infer.reference import evaluate
from kmind.testing.models import random_inputs, random_model


def test_a_slot_holds_the_whole_model() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        model = random_model(rng)
        plain = slot_bytes(model, bytes(range(32)))
        back = read_slot(plain)
        assert slot_bytes(back, bytes(range(32))) == plain
        x = random_inputs(rng, model, 20)
        assert np.array_equal(evaluate(back, x).score, evaluate(model, x).score)
    assert NODE.itemsize == 16


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_hostile_slot_with_right_hashes_is_refused_or_valid(data: st.DataObject) -> None:
    """An attacker can compute hashes too: only the checks of the content protect us."""
    file = whole(data.draw(st.integers(0, 30)))
    header, slot = parts(file.to_bytes())
    hostile = bytearray(slot)
    for _ in range(data.draw(st.integers(1, 6))):
        # The header and the section tables are where a lie does most.
        place = data.draw(st.one_of(st.integers(0, 191), st.integers(0, len(slot) - 1)))
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        value = data.draw(st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f"]))
        extra = data.draw(st.binary(min_size=8, max_size=8))
        end = min(place + width, len(hostile))
        hostile[place:end] = (value if data.draw(st.booleans()) else extra)[: end - place]
    loaded = load_or_none(resealed(header, sealed_slot(hostile)))
    if loaded is None:
        return
    x = random_inputs(np.random.default_rng(0), loaded.model, 20)
    evaluate(loaded.model, x)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_taken_of_hostile_slots_cannot_overflow(seed: int) -> None:
    """Evaluated by plain Python, which sees each number that leaves its bounds."""
    rng = np.random.default_rng(seed)
    taken = 0
    for _ in range(400):
        model = hostile_model(rng)
        if model is None:
            continue
        taken += 1
        x = random_inputs(rng, model, 6)
        said = evaluate(model, x)
        for row, vector in enumerate(x.tolist()):
            label, scores, probability = decide(model, vector)
            assert (label, probability) == (said.label[row], said.probability[row])
            assert scores == said.score[row].tolist()
        estimate = estimate_ns(model)
        assert 0 < estimate < float("inf")
        # The image is made, or refused for its size.
        with contextlib.suppress(ModelError):
            model_image(
                model, content=bytes(32), schema=bytes(32), quantisation=bytes(32), cost_ns=estimate
            )
    assert 20 < taken < 380
