# SPDX-License-Identifier: Apache-2.0
"""Model slots with lies in their tables, under right hashes: whoever writes one can hash it too."""

from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.integer import IntModel
from kmind.infer.packing import slot as layout
from kmind.testing.models import random_model

__all__ = ["hostile_model", "resealed", "tables"]

ODD = (0, 1, 2, 3, 7, 63, 64, 255, (1 << 15) - 1, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40)


def tables(slot: bytes) -> list[tuple[int, np.dtype[Any]]]:
    """Return the offset and type of each record of a slot."""
    head = np.frombuffer(slot, layout.HEADER, 1)[0]
    at, size = int(head["input"]), layout.INPUT.itemsize
    found = [(0, layout.HEADER)]
    found += [(at + n * size, layout.INPUT) for n in range(int(head["features"]))]
    body = int(head["body"])
    if head["kind"] == layout.KIND_NETWORK:
        size = layout.LAYER.itemsize
        return found + [(body + n * size, layout.LAYER) for n in range(int(head["layers"]))]
    trees = np.frombuffer(slot, layout.TREES, 1, body)[0]
    at, size = int(trees["node"]), layout.NODE.itemsize
    nodes = [(at + n * size, layout.NODE) for n in range(int(trees["nodes"]))]
    return [*found, (body, layout.TREES), *nodes]


def resealed(slot: bytearray) -> bytes:
    """The same with its own hash made right."""
    slot[16:48] = layout.content_hash(bytes(slot))
    return bytes(slot)


def hostile_model(rng: np.random.Generator) -> IntModel | None:
    """A model whose slot's records were changed in one to four places; None if it is refused."""
    slot = bytearray(layout.slot_bytes(random_model(rng), bytes(32)))
    places = tables(bytes(slot))
    for _ in range(int(rng.integers(1, 5))):
        at, dtype = places[int(rng.integers(len(places)))]
        names = [name for name in dtype.names or () if dtype[name].kind in "iu"]
        names += (
            [] if "step" not in (dtype.names or ()) else [f"step.{n}" for n in layout.STEP.names]
        )
        name = names[int(rng.integers(len(names)))]
        field, offset = dtype.fields[name.partition(".")[0]][:2]
        if "." in name:
            inner = layout.STEP.fields[name.partition(".")[2]]
            field, offset = inner[0], offset + inner[1]
        old = np.frombuffer(slot, field, 1, at + offset)[0]
        new = int(rng.choice(ODD)) if rng.random() < 0.5 else int(old) + int(rng.integers(-3, 4))
        new = -new if rng.random() < 0.3 else new
        whole = np.array(new & ((1 << 8 * field.itemsize) - 1), f"<u{field.itemsize}")
        slot[at + offset : at + offset + field.itemsize] = whole.tobytes()
    why = ""
    try:
        return layout.read_slot(resealed(slot))
    except ModelError as error:
        why = str(error)
    assert why
    assert "\n" not in why
    return None
