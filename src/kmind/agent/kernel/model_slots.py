# SPDX-License-Identifier: Apache-2.0
"""The model slots of a loaded object: ``kmind/infer.h`` as user space sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kmind.agent.model_image import SLOTS, facts, no_earlier, prepare, refuse
from kmind.errors import BpfError, ModelError
from kmind.infer.integer import IntModel
from kmind.infer.packing.pack import IMAGE, image_check
from kmind.infer.reference import Decisions
from kmind.infer.selftest import digest, digest_of, vectors

__all__ = ["ANSWER", "CONTROL", "TRIAL", "TRIAL_MOST", "ModelSlots"]

CONTROL = np.dtype([
    ("op", "<u4"), ("slot", "<u4"), ("result", "<u4"), ("budget_ns", "<u4"),
    ("active", "<u8"), ("missed", "<u8"),
])  # fmt: skip
"""``struct km_model_control``."""
TRIAL = np.dtype([
    ("slot", "<u4"), ("count", "<u4"), ("zero", "<u4"), ("what", "<u4"),
    ("failed", "<u4"), ("pad", "<u4"), ("ns", "<u8"),
])  # fmt: skip
"""``struct km_model_trial``."""
ANSWER = np.dtype([("label", "<i8"), ("probability", "<i8"), ("score", "<i8", (64,))])
"""``struct km_model_answer``."""

TRIAL_MOST = 4096
"""Most decisions of one trial: ``KM_TRIAL_MOST``."""

_SHOW, _ACTIVATE, _CHECK = 0, 1, 2
_ANSWERS, _TIME, _EMPTY = 0, 1, 2


class _MapLike(Protocol):
    """Part of a map's interface that is used here."""

    @property
    def value_size(self) -> int:
        """Bytes of a value."""

    @property
    def max_entries(self) -> int:
        """Number of values."""

    def lookup(self, key: bytes) -> bytes | None:
        """The value at a key."""

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set the value at a key."""


class _ProgramLike(Protocol):
    """Part of a program's interface that is used here."""

    def test_run(self, ctx: bytes | bytearray = b"", repeat: int = 0) -> Any:
        """Run it on a context; ``ctx`` of the result is what became of that."""


class ModelSlots:
    """The two slots of one object. One owner, one thread.

    ``maps`` and ``programs`` are the object's. ``settle`` returns once every decision that has
    begun before is over.
    """

    def __init__(
        self,
        maps: Mapping[str, Any],
        programs: Mapping[str, Any],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._slots: _MapLike = maps["km_models"]
        self._vectors: _MapLike = maps["km_model_vectors"]
        self._answers: _MapLike = maps["km_model_answers"]
        self._control: _ProgramLike = programs["km_model"]
        self._trial: _ProgramLike = programs["km_model_try"]
        self._settle = settle

    @property
    def batch(self) -> int:
        """Number of vectors that one trial takes."""
        return int(self._vectors.max_entries)

    @property
    def features(self) -> int:
        """The most features of a vector."""
        return self._vectors.value_size // 8

    def deploy(self, slot: bytes) -> int:
        """Put a model (its plain slot) into the idle slot, look at it, and let it decide.

        Returns its version. Raises ModelError, the model before deciding on, if it is damaged,
        does not belong to this agent, is over the hook's budget, or decides otherwise in the
        kernel than in the reference.
        """
        model, image = prepare(slot)
        idle = 1 - self._active()
        version = 1 + max(int(head["version"]) for head in self._heads())
        before = self._slots.lookup(_key(idle))
        self.write(idle, image, version)
        try:
            refuse(int(self._run(_CHECK, idle)["result"]))
            self.self_test(idle, model)
            refuse(int(self._run(_ACTIVATE, idle)["result"]))
        except BaseException:
            # A rollback must not go back to a refused model.
            self._slots.update(_key(idle), before or bytes(self._slots.value_size))
            raise
        return version

    def rollback(self) -> int:
        """Let the model in the other slot decide again; its version."""
        idle = 1 - self._active()
        head = self._heads()[idle]
        if not head["version"]:
            raise no_earlier()
        refuse(int(self._run(_ACTIVATE, idle)["result"]))
        return int(head["version"])

    def slots(self) -> list[dict[str, Any]]:
        """Return the models in the slots: see `facts`."""
        active = self._active()
        return [
            facts(head, number, active=number == active)
            for number, head in enumerate(self._heads())
            if head["version"]
        ]

    def write(self, slot: int, image: bytes, version: int = 1) -> None:
        """Write an image into a slot that does not decide."""
        packed = bytearray(image)
        head = np.frombuffer(packed, IMAGE, 1)[0].copy()
        head["version"] = version
        packed[: IMAGE.itemsize] = head.tobytes()
        head["check"] = image_check(bytes(packed))
        packed[: IMAGE.itemsize] = head.tobytes()
        self._settle()
        self._slots.update(_key(slot), bytes(packed).ljust(self._slots.value_size, b"\0"))

    def evaluate(self, slot: int, x: NDArray[np.int64], outputs: int) -> Decisions:
        """Let the kernel decide on ``x[n, F]`` by the model in a slot, whether it is active."""
        parts = [
            self._evaluate(slot, x[first : first + self.batch])
            for first in range(0, len(x), self.batch)
        ]
        answers = np.concatenate(parts) if parts else np.zeros(0, ANSWER)
        return Decisions(
            answers["label"].copy(),
            answers["score"][:, :outputs].copy(),
            answers["probability"].copy(),
        )

    def time_ns(self, slot: int, x: NDArray[np.int64], count: int) -> float:
        """Nanoseconds that a decision takes, over ``count`` of them on the vectors of ``x``.

        At most `TRIAL_MOST` of them. They are timed in one run of a program, less the same loop
        without deciding.
        """
        count = min(count, TRIAL_MOST)
        self._write_vectors(np.resize(x, (self.batch, x.shape[1])))
        whole, empty = (self._try(slot, count, what) for what in (_TIME, _EMPTY))
        return (int(whole["ns"]) - int(empty["ns"])) / count

    def self_test(self, slot: int, model: IntModel) -> None:
        """Refuse a model that the kernel evaluates otherwise than the reference."""
        answers = self.evaluate(slot, vectors(model), model.outputs)
        if digest_of(answers) != digest(model):
            raise ModelError("the kernel's decisions by this model differ from the reference's")

    def _evaluate(self, slot: int, x: NDArray[np.int64]) -> NDArray[Any]:
        self._write_vectors(x)
        ran = self._try(slot, len(x), _ANSWERS)
        if ran["failed"]:
            raise BpfError(f"{int(ran['failed'])} decisions found no room; ask again")
        answers = b"".join(self._answers.lookup(_key(row)) or b"" for row in range(len(x)))
        return np.frombuffer(answers, ANSWER)

    def _write_vectors(self, x: NDArray[np.int64]) -> None:
        wide = np.zeros((len(x), self.features), np.int64)
        wide[:, : x.shape[1]] = x
        for row, vector in enumerate(wide):
            self._vectors.update(_key(row), vector.tobytes())

    def _try(self, slot: int, count: int, what: int) -> Any:
        args = np.zeros((), TRIAL)
        args["slot"], args["count"], args["what"] = slot, count, what
        return np.frombuffer(self._trial.test_run(args.tobytes()).ctx, TRIAL)[0]

    def _run(self, op: int, slot: int = 0) -> Any:
        args = np.zeros((), CONTROL)
        args["op"], args["slot"] = op, slot
        return np.frombuffer(self._control.test_run(args.tobytes()).ctx, CONTROL)[0]

    def _active(self) -> int:
        # The slot that decides; where none does, the second, so that the first is idle.
        active = int(self._run(_SHOW)["active"])
        return active - 1 if active else SLOTS - 1

    def _heads(self) -> list[Any]:
        slots = [self._slots.lookup(_key(slot)) or b"" for slot in range(SLOTS)]
        return [np.frombuffer(packed, IMAGE, 1)[0] for packed in slots]


def _key(number: int) -> bytes:
    return number.to_bytes(4, "little")
