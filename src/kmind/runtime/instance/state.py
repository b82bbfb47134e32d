# SPDX-License-Identifier: Apache-2.0
"""An instance, as a daemon writes it down for the next one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kmind.abi.enums import WorkingMode
from kmind.extension import Value
from kmind.runtime.holds.state import HoldState
from kmind.runtime.instance.device.state import DeviceState
from kmind.runtime.sandbox.state import ProcessState
from kmind.util.versions import Format

__all__ = ["STATE", "InstanceState"]

STATE = Format("kmind.state")
"""Its versions. A field with a default needs no new one, any other change does."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*@[^/\x00]+$")]


class InstanceState(msgspec.Struct, frozen=True, kw_only=True):
    """One instance. ``module`` is what ``find_module`` takes: a name, or a folder.

    ``yielded`` are the knobs that somebody else has set, ``last_id`` is the highest id of
    a recommendation so far, ``running`` whether it was at work.
    """

    name: _Name
    module: str
    target: str
    params: dict[str, Value]
    mode: WorkingMode
    slot: int
    generation: int
    started: float
    process: ProcessState | None = None
    device: DeviceState | None = None
    holds: tuple[HoldState, ...] = ()
    yielded: tuple[str, ...] = ()
    windows: int = 0
    last_id: int = 0
    running: bool = False
    schema: str = STATE.schema
    boot: str = ""
