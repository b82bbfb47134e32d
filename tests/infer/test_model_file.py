# SPDX-License-Identifier: Apache-2.0
"""The model file: what is saved comes back, and nothing else is taken for one."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infer.sealed import load_or_none, parts, resealed, sealed_slot, whole

from kmind.errors import ModelError
from kmind.infer.features import Feature
from kmind.infer.model_file import LARGEST_FILE, ModelFile
from kmind.infer.packing import slot as layout
from kmind.infer.reference import evaluate
from kmind.testing.models import random_inputs, random_mlp, random_trees


@pytest.mark.parametrize("seed", range(20))
def test_what_is_saved_comes_back(seed: int, tmp_path: Path) -> None:
    file = whole(seed)
    path = tmp_path / "a.kmodel"
    file.save(path)
    back = ModelFile.load(path)
    assert back.to_bytes() == file.to_bytes()
    assert (back.features, back.classes, back.hash) == (file.features, file.classes, file.hash)
    assert (back.card, back.quantisation) == (file.card, file.quantisation)
    x = random_inputs(np.random.default_rng(seed), file.model, 50)
    ours, theirs = evaluate(file.model, x), evaluate(back.model, x)
    assert np.array_equal(ours.score, theirs.score)
    assert np.array_equal(ours.probability, theirs.probability)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.kmodel"]


def test_the_hash_is_that_of_model_and_schema_not_of_the_card() -> None:
    file = whole(1)
    same = ModelFile(file.model, file.features, file.classes, {}, {"other": "card"})
    renamed = tuple(Feature("x" + feature.name) for feature in file.features)
    assert same.hash == file.hash
    assert ModelFile(file.model, renamed, file.classes).hash != file.hash


def test_every_flipped_byte_is_found() -> None:
    data = whole(2).to_bytes()
    for place in range(0, len(data), max(len(data) // 400, 1)):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        with pytest.raises(ModelError):
            ModelFile.from_bytes(bytes(damaged))


@pytest.mark.parametrize("seed", [3, 4])
def test_every_truncation_is_found(seed: int) -> None:
    data = whole(seed).to_bytes()
    for size in [*range(80), *range(80, len(data), max(len(data) // 100, 1))]:
        with pytest.raises(ModelError):
            ModelFile.from_bytes(data[:size])
    with pytest.raises(ModelError):
        ModelFile.from_bytes(data + b"\0")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_rubbish_is_refused(rubbish: bytes, sealed: bool) -> None:
    with pytest.raises(ModelError):
        ModelFile.from_bytes(resealed(rubbish, rubbish) if sealed else rubbish)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["schema", "features", "classes", "card"]), _json))
def test_a_hostile_header_is_refused_or_valid(fields: dict[str, object]) -> None:
    header, slot = parts(whole(5).to_bytes())
    changed = json.dumps({**json.loads(header), **fields}).encode()
    load_or_none(resealed(changed, slot))


def test_a_header_nested_without_end_is_refused() -> None:
    header, slot = parts(whole(6).to_bytes())
    deep = header.rstrip()[:-1] + b',"x":' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    with pytest.raises(ModelError):
        ModelFile.from_bytes(resealed(deep[: 1 << 20], slot))
    for depth in (31, 100, 9000):
        # Brackets in a string count for nothing.
        card = {"y": "]" * depth, "z": '\\"' + "[" * 100}
        text = json.dumps(json.loads(header) | {"card": card})
        text = text.replace('"y"', f'"x": {"[" * depth + "]" * depth}, "y"')
        with pytest.raises(ModelError, match="nested more than 32 deep"):
            ModelFile.from_bytes(resealed(text.encode(), slot))
    text = json.dumps(json.loads(header) | {"card": card})
    text = text.replace('"y"', f'"x": {"[" * 30 + "]" * 30}, "y"')
    read = ModelFile.from_bytes(resealed(text.encode(), slot))
    assert read.card["z"] == '\\"' + "[" * 100


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    """Layers that all point at the same megabytes, and counts that lie."""
    rng = np.random.default_rng(7)
    model = random_mlp(rng, (4, 8, 2), norms=False)
    plain = bytearray(layout.slot_bytes(model, bytes(32)))
    body = int(np.frombuffer(plain, layout.HEADER, 1)[0]["body"])
    for count, size in ((255, 8), (2, 2**32 - 1), (2, 65535)):
        hostile = bytearray(plain)
        header = np.frombuffer(hostile, layout.HEADER, 1)
        header = header.copy()
        header["layers"] = count
        hostile[: layout.HEADER.itemsize] = header.tobytes()
        layer = np.frombuffer(bytes(hostile), layout.LAYER, 1, body).copy()
        layer["inputs"] = size
        hostile[body : body + layout.LAYER.itemsize] = layer.tobytes()
        tracemalloc.start()
        with pytest.raises(ModelError):
            layout.read_slot(sealed_slot(hostile))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = tmp_path / "large"
    with large.open("wb") as out:
        out.truncate(LARGEST_FILE + 1)
    text = tmp_path / "text"
    text.write_text("hello")
    for path in (pipe, large, text, tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(ModelError) as caught:
            ModelFile.load(path)
        assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        whole(1).save(tmp_path / "none" / "a.kmodel")
    file = whole(1)
    odd = ModelFile(file.model, file.features, file.classes, {}, {"x": float("nan")})
    with pytest.raises(ModelError, match="card"):
        odd.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_names_must_fit_the_model() -> None:
    model = random_trees(np.random.default_rng(1), 2, 2, 3, 2)
    with pytest.raises(ModelError, match="2 features are named"):
        ModelFile(model, (Feature("a"), Feature("b")), ("x", "y"))
    with pytest.raises(ModelError, match="same name"):
        ModelFile(model, (Feature("a"),) * 3, ("x", "y"))
