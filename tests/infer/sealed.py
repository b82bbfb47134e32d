# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of model_file and its neighbours."""

import hashlib
import struct

import numpy as np

from kmind.errors import ModelError
from kmind.infer.features import Feature
from kmind.infer.model_file import ModelFile
from kmind.infer.packing import slot as layout
from kmind.testing.models import random_model

FIXED = struct.Struct("<8sIIQ32s")


def whole(seed: int) -> ModelFile:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    labels = {"value": 0, "threshold": 2, "argmax": model.outputs}[model.output.kind]
    return ModelFile(
        model,
        tuple(Feature(f"f{number}", "ns", 0.5) for number in range(len(model.input))),
        tuple(f"class {number}" for number in range(labels)),
        {"loss": 0.25},
        {"data": "none", "nested": {"list": [1, 2.5, None, True]}},
    )


def resealed(header: bytes, slot: bytes) -> bytes:
    """A file whose checksum is right, whatever it holds."""
    digest = hashlib.sha256(header + slot).digest()
    return FIXED.pack(b"KMINDMDL", 1, len(header), len(slot), digest) + header + slot


def parts(data: bytes) -> tuple[bytes, bytes]:
    size = FIXED.unpack_from(data)[2]
    return data[FIXED.size : FIXED.size + size], data[FIXED.size + size :]


def load_or_none(data: bytes) -> ModelFile | None:
    """The file, or None where it is refused in one line; anything else is a failure."""
    message = ""
    try:
        return ModelFile.from_bytes(data)
    except ModelError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


def sealed_slot(slot: bytearray) -> bytes:
    """Make the slot's own hash right again, where that can be done."""
    slot[16:48] = layout.content_hash(bytes(slot))
    return bytes(slot)
