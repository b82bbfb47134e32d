# SPDX-License-Identifier: Apache-2.0
"""The model file: one file that says all about one integer model.

    "KMINDMDL"  u32 1  u32 length of the header   u64 length of the slot   SHA-256 of the rest
    the header: JSON, padded with spaces to a multiple of 8
    the slot:   the integer model, as ``kmind.infer.packing.slot`` lays it out

All numbers are little endian. Nothing in it is run or unpickled. A file that is damaged, cut off,
foreign or hostile raises ``ModelError`` in one line, and costs no more memory than a few times its
own size, which is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from kmind.errors import ModelError
from kmind.infer.features import Feature, schema_hash
from kmind.infer.integer import IntModel
from kmind.infer.integer_parts import LIMITS
from kmind.infer.packing.slot import read_slot, slot_bytes
from kmind.util.foreign import foreign

__all__ = ["LARGEST_FILE", "LARGEST_HEADER", "SCHEMA", "ModelFile"]

SCHEMA = "kmind.model/1"
LARGEST_FILE = 64 << 20
LARGEST_HEADER = 1 << 20

_MAGIC = b"KMINDMDL"
_FIXED = struct.Struct("<8sIIQ32s")
_VERSION = 1
_DEEPEST = 32
# Brackets, and strings as a whole: an unfinished one is not JSON, and ends the search.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)

_ClassName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON header; ``classes`` is empty where the output is a value."""

    schema: Literal["kmind.model/1"]
    features: Annotated[tuple[Feature, ...], msgspec.Meta(min_length=1, max_length=256)]
    classes: Annotated[tuple[_ClassName, ...], msgspec.Meta(max_length=64)]
    quantisation: dict[str, Any]
    card: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ModelFile:
    """An integer model with what must be known of it.

    ``features``: names, units and scales, in the order of the model's input. ``classes``: what
    each label means (two for a threshold, none for a value). ``quantisation``: how the integers
    came about, and what was lost, as ``kmind.infer.quantise`` writes it. ``card``: the model card,
    any JSON object: where the data came from, scores, known limits.

    ``hash`` is learnt: 64 hex digits, the identity of the model with its feature schema; an
    agent's slot shows the same. Card and class names are not part of it.
    """

    model: IntModel
    features: tuple[Feature, ...]
    classes: tuple[str, ...] = ()
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.features) != len(self.model.input):
            raise ModelError(
                f"{len(self.features)} features are named, the model takes {len(self.model.input)}"
            )
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise ModelError("two features have the same name")
        kind = self.model.output.kind
        wanted = {"value": 0, "threshold": 2, "argmax": self.model.outputs}[kind]
        if len(self.classes) != wanted:
            raise ModelError(f"{len(self.classes)} classes are named, the model has {wanted}")
        object.__setattr__(self, "hash", self.slot()[16:48].hex())

    @property
    def schema_hash(self) -> bytes:
        """SHA-256 (32 bytes) of the features' names and units."""
        return schema_hash(self.features)

    def slot(self) -> bytes:
        """Return the model as a slot without derived sections."""
        return slot_bytes(self.model, self.schema_hash)

    def to_bytes(self) -> bytes:
        """Return the whole file; raises ModelError where card or quantisation are no JSON."""
        header = {
            "schema": SCHEMA,
            "features": [msgspec.structs.asdict(feature) for feature in self.features],
            "classes": list(self.classes),
            "quantisation": dict(self.quantisation),
            "card": dict(self.card),
        }
        try:
            text = json.dumps(header, allow_nan=False, ensure_ascii=False).encode()
            _decode(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"the model's card is not plain JSON: {error}") from None
        text += b" " * (-len(text) % 8)
        slot = self.slot()
        if len(text) > LARGEST_HEADER or _FIXED.size + len(text) + len(slot) > LARGEST_FILE:
            raise ModelError("the model is larger than a model file may be")
        digest = hashlib.sha256(text + slot).digest()
        return _FIXED.pack(_MAGIC, _VERSION, len(text), len(slot), digest) + text + slot

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the model file") -> ModelFile:
        """Return what ``to_bytes`` made; ``name`` is what errors call it."""
        try:
            with foreign(lambda why: ModelError(f"damaged: {why}")):
                return cls._parse(data)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from None

    @classmethod
    def _parse(cls, data: bytes) -> ModelFile:
        if len(data) > LARGEST_FILE:
            raise ModelError(f"larger than {LARGEST_FILE >> 20} MiB")
        if data[:8] != _MAGIC:
            raise ModelError("this is not a kmind model file")
        if len(data) < _FIXED.size:
            raise ModelError("damaged: it ends within its first line")
        _, version, header_size, slot_size, digest = _FIXED.unpack_from(data)
        if version != _VERSION:
            raise ModelError(f"version {version} of the format; this kmind reads {_VERSION}")
        if header_size > LARGEST_HEADER or len(data) != _FIXED.size + header_size + slot_size:
            raise ModelError("damaged: its length differs from its header")
        if hashlib.sha256(data[_FIXED.size :]).digest() != digest:
            raise ModelError("damaged: the content does not match its hash")
        header = _decode(data[_FIXED.size : _FIXED.size + header_size])
        slot = data[_FIXED.size + header_size :]
        file = cls(
            read_slot(slot), header.features, header.classes, header.quantisation, header.card
        )
        if file.slot() != slot:
            raise ModelError("damaged: the integer model is not laid out as kmind writes it")
        return file

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all; an existing file is replaced."""
        path = Path(path)
        data = self.to_bytes()
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            try:
                with part.open("xb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(out.fileno())
                part.replace(path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    part.unlink()
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | Path) -> ModelFile:
        """Read a file; raises ModelError if it is anything but a whole model file."""
        try:
            # A pipe or a device would be opened for ever, or read for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as source:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ModelError(f"{path}: not a regular file")
                if status.st_size > LARGEST_FILE:
                    raise ModelError(f"{path}: larger than {LARGEST_FILE >> 20} MiB")
                data = source.read(LARGEST_FILE + 1)
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}") from None
        return cls.from_bytes(data, str(path))


def _nesting(text: bytes) -> int:
    # A decoder's limit of nesting differs from one Python to the next.
    depth = deepest = 0
    for token in _TOKEN.findall(text):
        if token in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in b"]}":
            depth -= 1
    return deepest


def _decode(text: bytes) -> _Header:
    if _nesting(text) > _DEEPEST:
        raise ModelError(f"the header is not valid: nested more than {_DEEPEST} deep")
    try:
        header = msgspec.json.decode(text, type=_Header)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise ModelError(f"the header is not valid: {what}") from None
    if len(header.features) > LIMITS.features:
        raise ModelError(f"{len(header.features)} features; {LIMITS.features} at most")
    return header
