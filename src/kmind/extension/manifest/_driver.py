# SPDX-License-Identifier: Apache-2.0
"""``[driver]``: the device that a driver serves, and the agent that its kind brings along."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kmind.extension._parameter import Name, Part, Text

__all__ = ["DRIVER_BASE_MIB", "DriverKnob", "DriverPart"]

DRIVER_BASE_MIB = 48
"""Memory of a driver's process beside its buffers: the interpreter, numpy and kmind."""

_KINDS = ("block",)
_NOT_YET = {"bypass": "nothing of the runtime's own serves a backing file so far"}
_Word = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]


class DriverKnob(Part, frozen=True, kw_only=True):
    """``[[driver.knob]]``: a setting of the driver's own, an integer of that ``unit``."""

    name: Name
    help: Text
    minimum: _Word
    maximum: _Word
    default: _Word
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(
                f"knob {self.name}: the default {self.default} is not from {self.minimum} "
                f"to {self.maximum}"
            )


class DriverPart(Part, frozen=True, kw_only=True):
    """``[driver]``: a device of that ``kind``, and what becomes of it in trouble.

    At most ``depth`` requests are in flight, each of ``max_io_kib``: memory for all of them is
    taken before the device appears. When its process dies, or its heart stops, ``recover`` starts
    another one, which gets the same requests again; so it needs ``replay = "safe"``: a request may
    be done twice. ``fail`` answers EIO, now and later. ``memory`` names a parameter in MiB: so
    much memory is set aside for the driver, and outlives its process. A request may take
    ``stall_ms``.
    """

    kind: str
    depth: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    max_io_kib: Annotated[int, msgspec.Meta(ge=4, le=1024, multiple_of=4)] = 1024
    on_failure: str = "fail"
    replay: Literal["safe", "unsafe"] = "unsafe"
    stall_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 2000
    memory: str = ""
    knobs: tuple[DriverKnob, ...] = msgspec.field(name="knob", default=())

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind: {self.kind!r} is not there; there is {', '.join(_KINDS)}")
        if why := _NOT_YET.get(self.on_failure):
            raise ValueError(f"on_failure: {self.on_failure!r} is not there yet: {why}")
        if self.on_failure not in ("recover", "fail"):
            raise ValueError(f"on_failure: {self.on_failure!r} is neither recover nor fail")
        if self.on_failure == "recover" and self.replay != "safe":
            raise ValueError('on_failure: recover does requests again, which needs replay = "safe"')
        names = [knob.name for knob in self.knobs]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"knob[{index}].name: {name!r} occurs more than once")

    @property
    def max_io(self) -> int:
        """Bytes of the largest request."""
        return self.max_io_kib << 10

    @property
    def least_mib(self) -> int:
        """Memory that its process needs for itself and its buffers, in MiB."""
        return DRIVER_BASE_MIB + -(-self.depth * self.max_io_kib // 1024)

    @property
    def recovers(self) -> bool:
        """True if another process may go on with the requests of a dead one."""
        return self.on_failure == "recover"
