# SPDX-License-Identifier: Apache-2.0
"""Records of the API: requests are parsed into them, and the OpenAPI document is made from them.

Answers may hold more fields than are declared here; those declared are always there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from kmind import events
from kmind.abi.enums import ModeName, WorkingMode

__all__ = [
    "EVENT_LINES",
    "EVENT_SCHEMA",
    "LINES",
    "MODEL_BYTES",
    "PROBLEM",
    "Advice",
    "AdviceList",
    "Change",
    "Event",
    "Experiment",
    "ExperimentList",
    "Fill",
    "Finding",
    "FindingList",
    "Health",
    "Instance",
    "InstanceList",
    "Lease",
    "LeaseList",
    "LoadRequest",
    "ModeRequest",
    "ModelList",
    "ModelRequest",
    "ModuleList",
    "Problem",
    "Report",
    "ReportList",
]

PROBLEM = "application/problem+json"
"""The media type of a refusal (RFC 9457)."""

EVENT_SCHEMA: Literal["kmind.event/1"] = "kmind.event/1"
"""The schema that each line of the event stream names."""

LINES = "application/jsonl"
"""The media type of a stream: one JSON object a line."""

MODEL_BYTES = 4 << 20
"""The largest model file that the API takes; what fits in an agent's slot is far smaller."""

# Control characters stand in no name, and a name ends where it ends.
_TEXT = r"^[^\x00-\x1f\x7f]*$(?!\n)"

_PATH_BYTES = 4096  # PATH_MAX of limits.h: a cgroup's path may be that long

# A name, or where a folder is. What is relative would be so to the daemon.
_MODULE = r"^([A-Za-z][A-Za-z0-9_-]{0,63}|/[^\x00-\x1f\x7f]*)$(?!\n)"

_Word: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096, pattern=_TEXT)]
_Parameter: TypeAlias = bool | int | float | _Word


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    # A field that is not declared is an error: a word mistyped must not be lost.
    pass


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class LoadRequest(_Request, frozen=True):
    """Request to load a module as an instance.

    ``module`` is a name, or the absolute path of a folder with a module.toml.
    ``target`` may be left out where the module works on the whole system.
    Without ``mode``, the module's own or the daemon's default holds.
    """

    module: Annotated[str, msgspec.Meta(max_length=4096, pattern=_MODULE)]
    target: Annotated[str, msgspec.Meta(max_length=_PATH_BYTES, pattern=_TEXT)] = ""
    parameters: Annotated[dict[_Word, _Parameter], msgspec.Meta(max_length=256)] = {}
    mode: WorkingMode | None = None
    dry_run: bool = False


class ModeRequest(_Request, frozen=True):
    """Request for another mode. Emergency puts everything back and refuses all recommendations."""

    mode: ModeName


class ModelRequest(_Request, frozen=True):
    """Request to deploy a model: it is put into the instance's idle slot, and selected.

    ``file`` is a whole model file, in base64.
    """

    file: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MODEL_BYTES)]


class Instance(_Answer, frozen=True):
    """A module bound to a target."""

    name: str
    module: str
    target: str
    mode: str


class Fill(_Answer, frozen=True):
    """Number of entries that a table has, and its capacity."""

    used: int
    size: int


class InstanceList(_Answer, frozen=True):
    """Instances, in the order of their loading; ``fill`` of the tables that they share."""

    instances: list[Instance]
    fill: dict[str, Fill]
    schema: Literal["kmind.instances/1"] = "kmind.instances/1"


class Change(_Answer, frozen=True):
    """Result of a request: ``result`` comes from the supervisor as it is."""

    name: str
    result: dict[str, Any]
    schema: Literal["kmind.change/1"] = "kmind.change/1"


class ModelList(_Answer, frozen=True):
    """Models in an instance's slots; empty if its module uses no models."""

    name: str
    models: list[dict[str, Any]]
    schema: Literal["kmind.models/1"] = "kmind.models/1"


class Advice(_Answer, frozen=True):
    """Recommendation that waits for the admin, or has been decided."""

    id: str
    instance: str
    knob: str
    state: str


class AdviceList(_Answer, frozen=True):
    """Advice, newest first."""

    advice: list[Advice]
    schema: Literal["kmind.advice/1"] = "kmind.advice/1"


class Experiment(_Answer, frozen=True):
    """Recorded experiment; ``outcome`` is empty until it has ended."""

    id: int
    state: str
    kind: str
    instance: str
    target: str
    knob: str
    outcome: str
    kept: bool


class ExperimentList(_Answer, frozen=True):
    """Experiments, newest first; a single one also has its ``record``, with all blocks."""

    experiments: list[Experiment]
    schema: Literal["kmind.why/2"] = "kmind.why/2"


class Finding(_Answer, frozen=True):
    """Finding of a detector, about its target or a part of it.

    ``meaning`` says what ``score`` is, ``causes`` are hints, each with its evidence, and ``why``
    is the reason for the state. Times are in seconds since 1970.
    """

    id: str
    state: Literal["open", "acknowledged", "closed"]
    instance: str
    kind: str
    subject: str
    severity: Literal["info", "warning", "critical"]
    score: float
    meaning: str
    unit: str
    title: str
    evidence: dict[str, Any]
    causes: list[dict[str, Any]]
    action: str
    since: float
    last: float
    expires: float
    closed: float | None
    times: int
    why: str


class FindingList(_Answer, frozen=True):
    """Findings: open ones first, the latest first."""

    findings: list[Finding]
    schema: Literal["kmind.findings/1"] = "kmind.findings/1"


class Report(_Answer, frozen=True):
    """Report of a reporter; ``files`` is name to size in bytes."""

    id: str
    instance: str
    target: str
    kind: str
    signature: str
    title: str
    evidence: dict[str, Any]
    count: int
    first: float
    last: float
    keep_until: float
    files: dict[str, int]


class ReportList(_Answer, frozen=True):
    """Reports, the latest first; a single one also has ``data``: name to content, in base64."""

    reports: list[Report]
    schema: Literal["kmind.reports/1"] = "kmind.reports/1"


class Lease(_Answer, frozen=True):
    """Exclusive right of one instance to one knob on one target, with an expiry."""

    knob: str
    target: str
    holder: str
    priority: int
    expires_s: float


class LeaseList(_Answer, frozen=True):
    """Held leases; ``fill`` as in ``InstanceList``."""

    leases: list[Lease]
    fill: dict[str, Fill]
    schema: Literal["kmind.leases/1"] = "kmind.leases/1"


class ModuleList(_Answer, frozen=True):
    """Installed modules, and those that are broken, by name, with the reason.

    ``unknown`` tells of lines of the configuration that name no module, ``wrong`` of files of it
    that are passed over.
    """

    modules: list[dict[str, Any]]
    broken: dict[str, str]
    unknown: list[str]
    wrong: list[str]
    schema: Literal["kmind.modules/1"] = "kmind.modules/1"


class Health(_Answer, frozen=True):
    """The daemon. ``step_age_s`` is the time since its supervisor last went round.

    ``owner`` tells how long the turns of that thread take, in ms: see docs/daemon.md.
    """

    ok: bool
    version: str
    pid: int
    started: float
    step_age_s: float
    owner: dict[str, Any]
    schema: Literal["kmind.health/1"] = "kmind.health/1"


class Event(_Answer, frozen=True):
    """One line of the event stream; ``EVENT_LINES`` has the fields of each event."""

    event: str
    ts: float
    schema: Literal["kmind.event/1"] = EVENT_SCHEMA


def _line(kind: type[events.Event]) -> type[msgspec.Struct]:
    # The event, with the fields that every line of the stream has.
    return msgspec.defstruct(
        f"{kind.__name__}Event",
        [
            ("ts", Annotated[float, msgspec.Meta(description="seconds since 1970")]),
            ("schema", Literal["kmind.event/1"], EVENT_SCHEMA),
        ],
        bases=(kind,),
        namespace={"__doc__": kind.__doc__},
        tag=kind.__struct_config__.tag,
        kw_only=True,
        frozen=True,
    )


EVENT_LINES = tuple(_line(kind) for kind in events.EVENTS if kind.streamed)
"""A record for each kind of line of the event stream."""


class Problem(_Answer, frozen=True):
    """Reason why a request was refused (RFC 9457).

    ``detail`` says what happened and why, ``hint`` what to do; ``exit_code`` is the command line's.
    """

    type: str
    title: str
    status: int
    detail: str
    hint: str = ""
    exit_code: int = 1
