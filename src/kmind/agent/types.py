# SPDX-License-Identifier: Apache-2.0
"""What both backends of an agent promise.

``bpf`` is the real thing: eBPF programs in the running kernel. ``sim`` does the
same in Python over anonymous memory, so that a module can be written and
tested without root. One agent serves one instance. Its owner (the daemon, or
``kmind run``) is trusted and single-threaded; the extension is neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

from kmind.abi import layout

__all__ = [
    "Action",
    "Agent",
    "Cause",
    "Grant",
    "Kind",
    "Mode",
    "ModelUse",
    "Rule",
    "Verdict",
]


class Mode(IntEnum):
    """How far an instance may go; see ``enum kmind_mode``."""

    OBSERVE = layout.MODE["OBSERVE"]
    ADVISE = layout.MODE["ADVISE"]
    CANARY = layout.MODE["CANARY"]
    AUTO = layout.MODE["AUTO"]
    EMERGENCY = layout.MODE["EMERGENCY"]


class Verdict(IntEnum):
    """What admission decided about a recommendation; see ``enum kmind_verdict``."""

    PENDING = layout.VERDICT["PENDING"]
    APPROVED = layout.VERDICT["APPROVED"]
    RENEWED = layout.VERDICT["RENEWED"]
    SHADOWED = layout.VERDICT["SHADOWED"]
    ADVISED = layout.VERDICT["ADVISED"]
    EMERGENCY = layout.VERDICT["EMERGENCY"]
    TORN = layout.VERDICT["TORN"]
    REPLAYED = layout.VERDICT["REPLAYED"]
    EXPIRED = layout.VERDICT["EXPIRED"]
    UNKNOWN = layout.VERDICT["UNKNOWN"]
    TYPE = layout.VERDICT["TYPE"]
    RANGE = layout.VERDICT["RANGE"]
    GRID = layout.VERDICT["GRID"]
    STEP = layout.VERDICT["STEP"]
    RATE = layout.VERDICT["RATE"]
    RULE = layout.VERDICT["RULE"]
    MODEL = layout.VERDICT["MODEL"]
    BUSY = layout.VERDICT["BUSY"]
    OWNER = layout.VERDICT["OWNER"]
    LEASE = layout.VERDICT["LEASE"]
    ROOM = layout.VERDICT["ROOM"]


class Kind(IntEnum):
    """What a record says; see ``enum kmind_kind``."""

    NONE = layout.KIND["NONE"]
    MODE = layout.KIND["MODE"]
    APPLIED = layout.KIND["APPLIED"]
    UNDONE = layout.KIND["UNDONE"]
    YIELDED = layout.KIND["YIELDED"]
    FAILED = layout.KIND["FAILED"]
    KEPT = layout.KIND["KEPT"]
    DROPPED = layout.KIND["DROPPED"]
    OBJECTIVE = layout.KIND["OBJECTIVE"]
    NO_OBJECTIVE = layout.KIND["NO_OBJECTIVE"]
    MODULE = layout.KIND["MODULE"]


class Cause(IntEnum):
    """Why an agent changed its mode; see ``enum kmind_cause``."""

    ASKED = layout.CAUSE["ASKED"]
    STALLED = layout.CAUSE["STALLED"]


@dataclass(frozen=True)
class Rule:
    """A rule over two knobs of one target: ``value op other + offset``."""

    op: Literal["<", "<=", ">", ">="]
    knob: int
    offset: int = 0


@dataclass(frozen=True)
class Grant:
    """What an instance may do with one knob on one target.

    Values are as the knob encodes them: integers, or indices into its choices.
    ``step_percent`` bounds the ratio of new to old either way (400: four times);
    ``interval_ns`` and ``burst`` are the rate limit; 0 means unbounded. ``priority``
    (0 to 255) is that of the lease: the higher takes it over from the lower. ``hold_ms``
    is the longest hold that may be asked for, and so how long a lease may last.
    """

    minimum: int
    maximum: int
    current: int
    type: Literal["int", "enum"] = "int"
    step: int = 0
    step_percent: int = 0
    grid: int = 0
    choices: int = 0
    interval_ns: int = 0
    burst: int = 1
    rules: tuple[Rule, ...] = field(default=())
    priority: int = 100
    hold_ms: int = 0


@dataclass(frozen=True)
class ModelUse:
    """How an agent decides by models: over which features, and how long it may take.

    ``schema`` is the hash of the features (32 bytes, `kmind.infer.features.schema_hash`).
    """

    schema: bytes
    budget_ns: int


@dataclass(frozen=True)
class Action:
    """What the agent tells its owner: a verdict on a recommendation, or a new mode.

    ``note`` holds what the extension said of it (untrusted bytes, at most
    1,024). ``cause`` is set for a mode, ``verdict`` for a recommendation. ``instance``
    is the slot that it is about, ``holder`` the slot that holds the knob's lease now,
    ``previous`` the one that it was taken from, whose change may still stand; 0 is none.
    """

    kind: Literal["verdict", "mode"]
    time_ns: int
    mode: Mode
    verdict: Verdict | None = None
    cause: Cause | None = None
    id: int = 0
    knob: int = 0
    target: int = 0
    value: int = 0
    current: int = 0
    hold_ms: int = 0
    model: int = 0
    note: bytes = b""
    instance: int = 0
    holder: int = 0
    previous: int = 0


class Agent(Protocol):
    """The kernel half of an instance, as its owner sees it."""

    backend: Literal["bpf", "sim"]
    arena_fd: int  # what the extension maps, at ``arena_address``
    arena_address: int  # 0: anywhere
    arena_size: int
    doorbell_fd: int  # readable when the agent rings
    action_fd: int  # readable when ``poll`` has something; for a selector

    def start(self) -> None:
        """Attach the hooks and arm the tick. The watchdog counts from here."""

    def close(self) -> None:
        """Detach and free everything. Safe to call twice."""

    def grant(self, knob: int, target: int, grant: Grant) -> None:
        """Let the instance recommend values for a knob; replaces an earlier grant."""

    def revoke(self, knob: int, target: int) -> None:
        """Grant a knob no more, and free its places; nothing if it was not granted."""

    @property
    def mode(self) -> int:
        """The mode that it is in, by the kernel's own word; 0: none was set yet."""

    def set_mode(self, mode: Mode) -> None:
        """Move to a mode. The way out of emergency is this call, and no other."""

    def set_model(self, identity: int) -> None:
        """Admit recommendations of one model only; 0 admits any."""

    def deploy(self, slot: bytes) -> int:
        """Have a model decide, as its plain slot (`kmind.infer.slot`); its version.

        Raises ModelError if the agent has no slots, or refuses it; then nothing has changed.
        """

    def rollback(self) -> int:
        """Have the model of the other slot decide again; its version."""

    def models(self) -> list[dict[str, Any]]:
        """What lies in the slots: slot, active, version, estimate_ns, and hashes in hex."""

    def set_current(self, knob: int, target: int, value: int) -> None:
        """Say what value a knob has now, where it is not what was approved last."""

    def notify(self, kind: Kind, rec_id: int, value: int) -> None:
        """Tell the extension what became of a recommendation, as a record."""

    def poll(self, timeout_s: float) -> list[Action]:
        """Wait for actions at most that long, and return them in order."""

    def feature(self, column: int) -> int:
        """A counter's total since the agent was loaded, from the agent's own memory."""

    def watch(self, program: str, wanted: bool) -> None:
        """Attach or detach one of the hooks that were deferred; nothing if it is so already."""

    def account(self) -> Mapping[str, int]:
        """Counters kept by the agent: pushed, dropped, verdicts by name, ticks..."""

    def programs(self) -> Mapping[str, int]:
        """The hooks that are attached: name to program id (0 in ``sim``)."""

    def missing(self) -> Mapping[str, str]:
        """The optional hooks that could not be attached: name to cause."""
