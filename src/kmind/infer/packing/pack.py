# SPDX-License-Identifier: Apache-2.0
"""The image of a model: the bytes that an agent's map holds, laid out for fast walks.

``kmind/infer.h`` has the same records. Little endian; offsets count from the image's first
byte. It is made from the integer model alone, and computes the same.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp, IntModel
from kmind.infer.integer_parts import NORMS, OUTPUTS
from kmind.infer.packing._network import put_network
from kmind.infer.packing._trees import CAPACITY, is_raw, put_trees
from kmind.infer.packing.slot import STEP, Writer

__all__ = ["CAPACITY", "IMAGE", "fits_slot", "image_check", "model_image"]

MAGIC, ABI = 0x49444D4B, 3
KIND_TREES, KIND_NETWORK = 1, 2

IMAGE = np.dtype([
    ("magic", "<u4"), ("abi", "<u2"), ("kind", "<u2"), ("size", "<u4"), ("zero", "<u4"),
    ("check", "<u8"), ("version", "<u8"),
    ("content", "V32"), ("schema", "V32"), ("quantisation", "V32"),
    ("threshold", "<i8"), ("features", "<u4"), ("outputs", "<u4"), ("cost_ns", "<u4"),
    ("output", "u1"), ("probability", "u1"), ("raw", "u1"), ("norm", "u1"),
    ("step", STEP), ("input", "<u4"), ("body", "<u4"), ("layers", "<u4"), ("exact", "<u4"),
])  # fmt: skip
"""``struct km_image``: what an image begins with."""

_SEED = 0x9E3779B97F4A7C15  # KMIND_CHECK_SEED
_WORD = (1 << 64) - 1


def model_image(
    model: IntModel, *, content: bytes, schema: bytes, quantisation: bytes, cost_ns: float
) -> bytes:
    """Return the image; its ``version`` and ``check`` are 0 until it is deployed.

    The hashes (32 bytes each) are those of the model's plain slot. Raises ModelError if the
    image is too large.
    """
    writer = Writer(IMAGE.itemsize, 16)
    head: Any = np.zeros((), IMAGE)
    head["magic"], head["abi"] = MAGIC, ABI
    head["content"], head["schema"] = np.void(content), np.void(schema)
    head["quantisation"] = np.void(quantisation)
    head["features"], head["outputs"] = len(model.input), model.outputs
    head["cost_ns"] = min(int(np.ceil(cost_ns)), 0xFFFFFFFF)
    head["threshold"] = model.output.threshold
    head["output"] = OUTPUTS.index(model.output.kind)
    head["norm"] = NORMS.index(model.input.norm)
    head["probability"] = model.output.probability is not None
    head["step"] = writer.step(model.output.probability)
    head["input"] = writer.put(writer.input(model.input, searched=True))
    if isinstance(model, IntMlp):
        head["kind"], head["layers"] = KIND_NETWORK, len(model.layers)
        head["body"] = put_network(writer, model)
    else:
        head["kind"], head["raw"] = KIND_TREES, is_raw(model)
        head["body"], head["exact"] = put_trees(writer, model)
    head["size"] = len(writer.data)
    if len(writer.data) > CAPACITY:
        raise ModelError(
            f"the model needs {len(writer.data):,} bytes; a slot has {CAPACITY:,}",
            hint="train a smaller one: fewer trees, or narrower layers",
        )
    writer.data[: IMAGE.itemsize] = head.tobytes()
    return bytes(writer.data)


def fits_slot(model: IntModel) -> bool:
    """Return whether the model's image fits into a slot of an agent."""
    nothing = bytes(32)
    try:
        model_image(model, content=nothing, schema=nothing, quantisation=nothing, cost_ns=0)
    except ModelError:
        return False
    return True


def image_check(image: bytes) -> int:
    """Return what ``check`` must be: ``kmind_mix`` over all other words, as the kernel does."""
    value = _SEED
    for word in struct.unpack(f"<{len(image) // 8 - 1}Q", image[:16] + image[24:]):
        value = (value ^ word) * _SEED & _WORD
        value ^= value >> 32
    return value
