# SPDX-License-Identifier: Apache-2.0
"""Events: one frozen record for each thing that kmind tells.

The log, the event stream and its schema, the lines of ``kmind run`` and the tables of
docs/output.md are made from these records. To add an event, add a class here, run
``tools/event_tables.py``, and emit it.

A class's docstring says when the event happens; each field says what it holds. An optional field
has the default ``UNSET``. Values come from agents and extensions, and are untrusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias, Union, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "EVENTS",
    "Advice",
    "Applied",
    "Dropped",
    "Emit",
    "Event",
    "Experiment",
    "Failed",
    "Finding",
    "Kept",
    "Log",
    "Lost",
    "Mode",
    "Report",
    "Request",
    "Restored",
    "Result",
    "Start",
    "Stop",
    "Trouble",
    "Undone",
    "Verdict",
    "Window",
    "Yielded",
    "decode",
    "fields_of",
]

_Value: TypeAlias = int | str
_Instance = Annotated[str, Meta(description="name of the instance")]
_Id = Annotated[int, Meta(description="number of the recommendation")]
_Knob = Annotated[str, Meta(description="name of the knob")]
_Target = Annotated[str, Meta(description="target of the instance or the knob")]
_Old = Annotated[_Value | None, Meta(description="value before")]
_New = Annotated[_Value | None, Meta(description="value of the knob now; null: it cannot be read")]
_Reason = Annotated[str, Meta(description="the extension's reason, cleaned and cut to size")]
_Evidence = Annotated[
    Mapping[str, Any], Meta(description="the extension's evidence; of `kept`, the interval")
]
_Why = Annotated[str, Meta(description="cause, in words")]
_Undo = Annotated[str, Meta(description="shell command that sets the old value")]
_Number = Annotated[int, Meta(description="number of the experiment, for `kmind why`")]
_Incumbent = Annotated[_Value, Meta(description="value that the candidate is compared with")]
_Candidate = Annotated[_Value, Meta(description="value that is tried")]
_Metric = Annotated[str, Meta(description="outcome that decides")]
_Account = Annotated[Mapping[str, int], Meta(description="counters, see [accounts](#accounts)")]
_ModeName = Annotated[str, Meta(description="mode of the instance")]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """One event. Subclasses are the kinds.

    ``logged`` ones go to the daemon's log, ``audited`` ones to the audit log as well, ``streamed``
    ones to the readers of the event stream. A ``skippable`` one is left out of the log where
    ``charged_to`` has used up its share. ``warning`` raises the priority in systemd's journal.
    """

    logged: ClassVar[bool] = True
    audited: ClassVar[bool] = False
    skippable: ClassVar[bool] = True
    warning: ClassVar[bool] = False
    streamed: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Name of the event, such as ``applied``."""
        return str(self.__struct_config__.tag)

    @property
    def charged_to(self) -> str:
        """Owner of the log share that this event uses: an instance, a client, or "" for kmind."""
        return getattr(self, "instance", UNSET) or ""

    def fields(self) -> dict[str, Any]:
        """Return the fields that are set, by name; JSON can hold them, or text of them."""
        pairs = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in pairs if value is not UNSET}

    def text(self) -> str:
        """Return one line for people, "" for an event that deserves none."""
        return ""


Emit: TypeAlias = Callable[[Event], None]
"""Receiver of events. It must neither wait nor raise."""


class _Change(Event, frozen=True, kw_only=True):
    # An event that changes what an instance does to the machine.
    audited: ClassVar[bool] = True
    skippable: ClassVar[bool] = False


class Start(_Change, frozen=True, kw_only=True):
    """An agent started watching."""

    instance: _Instance
    how: Annotated[
        str, Meta(description="`loaded`, `reloaded`, `taken over`, or `recovered` (a driver)")
    ]
    module: Annotated[str, Meta(description="name of the module")]
    target: _Target
    backend: Annotated[str, Meta(description="`bpf`, or `sim` for a simulated agent")]
    mode: _ModeName
    params: Annotated[Mapping[str, Any], Meta(description="parameters of the module")]
    knobs: Annotated[Mapping[str, Any], Meta(description="granted knobs, name to baseline")]
    extension: Annotated[
        Mapping[str, int | None],
        Meta(description="`pid` and `uid` of the extension's process; null: your own user"),
    ]
    hooks: Annotated[Mapping[str, Any], Meta(description="attached hooks, name to program id")]
    missing: Annotated[Mapping[str, str], Meta(description="hooks not attached, name to cause")]

    def text(self) -> str:
        """Say that it watches, and under which user."""
        uid = self.extension["uid"]
        who = "with your privileges" if uid is None else f"as uid {uid}, without privileges"
        return (
            f"{self.instance}: watching, mode {self.mode}; "
            f"its extension runs {who}; Ctrl-C puts everything back"
        )


class Window(Event, frozen=True, kw_only=True):
    """A feature window closed."""

    logged: ClassVar[bool] = False

    instance: _Instance
    seq: Annotated[int, Meta(description="number of the window, from 0")]
    end: Annotated[float, Meta(description="end of the window, in seconds of CLOCK_MONOTONIC")]
    seconds: Annotated[float, Meta(description="length of the window")]
    dropped: Annotated[int, Meta(description="records that the rings had no room for")]
    features: Annotated[Mapping[str, int], Meta(description="features, name to number")]


class _Decided(Event, frozen=True, kw_only=True):
    instance: _Instance
    id: _Id
    verdict: Annotated[str, Meta(description="[verdict](agents.md#admission) of the agent")]
    knob: Annotated[_Value, Meta(description="name of the knob; its number if not granted")]
    value: Annotated[_Value, Meta(description="value that was recommended")]
    current: Annotated[_Value, Meta(description="value of the knob at the verdict")]
    reason: _Reason
    evidence: _Evidence

    @property
    def change(self) -> str:
        """The recommended change, in words."""
        return f"{self.knob} {self.current} -> {self.value}"


class Verdict(_Decided, frozen=True, kw_only=True):
    """The agent decided on a recommendation."""

    holder: (
        Annotated[str, Meta(description="holder of the lease, of verdict `lease`")] | UnsetType
    ) = UNSET

    def text(self) -> str:
        """Say what was refused; others have events of their own."""
        if self.verdict in ("advised", "approved"):
            return ""
        return f"#{self.id} {self.change}: {self.verdict}. {self.reason}"


class Advice(_Decided, frozen=True, kw_only=True):
    """The agent advises a change, in mode advise; follows the verdict."""

    command: Annotated[str, Meta(description="shell command that does the same")]
    advice: (
        Annotated[str, Meta(description="number for `kmind advice`, from the daemon")] | UnsetType
    ) = UNSET

    def text(self) -> str:
        """Say what is advised, and how to do it."""
        return f"#{self.id} advises {self.change}. {self.reason} To do so: {self.command}"


class Applied(_Change, frozen=True, kw_only=True):
    """A value was set."""

    instance: _Instance
    id: _Id
    knob: _Knob
    old: _Old
    value: _New
    reason: _Reason
    evidence: _Evidence
    hold_s: Annotated[float, Meta(description="seconds until the value is undone")]
    measured: Annotated[
        str,
        Meta(
            description="known effect of the value: `not measured: …`, `remembered: …`, "
            "`not confirmed: …`, `confirmed in experiment …` or empty"
        ),
    ]
    undo: _Undo

    def text(self) -> str:
        """Say what was set, for how long, and why."""
        known = f" ({self.measured})" if self.measured else ""
        return (
            f"#{self.id} set {self.knob} {self.old} -> {self.value} "
            f"for {self.hold_s:g} s. {self.reason}{known}"
        )


class Experiment(Event, frozen=True, kw_only=True):
    """An experiment begins."""

    instance: _Instance | UnsetType = UNSET
    id: _Id | UnsetType = UNSET
    experiment: _Number
    kind: Annotated[str, Meta(description="`trial`, `recheck`, `confirmation`, or `by hand`")]
    knob: _Knob
    target: _Target | UnsetType = UNSET
    incumbent: _Incumbent
    candidate: _Candidate
    metric: _Metric
    better: Annotated[str, Meta(description="`higher` or `lower`")]
    guards: (
        Annotated[Sequence[str], Meta(description="outcomes that must not get worse")] | UnsetType
    ) = UNSET
    context: (
        Annotated[
            str,
            Meta(
                description="load by the agent's counters; after a semicolon, the extension's word"
            ),
        ]
        | UnsetType
    ) = UNSET
    error: (
        Annotated[
            float,
            Meta(
                description="probability of a false gain, "
                "of the [day's budget](evidence.md#the-days-budget)"
            ),
        ]
        | UnsetType
    ) = UNSET
    detectable: Annotated[
        float | None,
        Meta(description="smallest gain found in four of five cases, a ratio; null: not known"),
    ]
    max_s: Annotated[float, Meta(description="longest duration, in seconds")]
    reason: _Reason | UnsetType = UNSET
    evidence: _Evidence | UnsetType = UNSET

    def text(self) -> str:
        """Say what is compared, by which metric, and which gain can be found."""
        again = " again" if self.kind == "recheck" else ""
        limits = f"at most {self.max_s:g} s"
        if self.detectable is not None:
            limits += f"; detects gains of {100 * (self.detectable - 1):.2g}% and more"
        return (
            f"experiment {self.experiment}: comparing{again} {self.knob} {self.candidate} with "
            f"{self.incumbent} (metric: {self.metric}; {limits}). {self.reason or ''}"
        ).rstrip()


class Result(Event, frozen=True, kw_only=True):
    """An experiment ended."""

    instance: _Instance | UnsetType = UNSET
    id: _Id | UnsetType = UNSET
    experiment: _Number
    knob: _Knob
    incumbent: _Incumbent
    candidate: _Candidate
    metric: _Metric
    outcome: Annotated[
        str | None, Meta(description="`gain`, `loss`, `no change` or `aborted`; null: none")
    ]
    why: _Why
    kept: Annotated[bool, Meta(description="true if the candidate stays")]
    interval: Annotated[
        Mapping[str, Any] | None,
        Meta(description="`ratio`, its ends `low` and `high`, and the number of `pairs`"),
    ]
    blocks: Annotated[int, Meta(description="number of blocks measured")]
    now: (
        Annotated[_Value, Meta(description="value of the knob, of `kmind evaluate`")] | UnsetType
    ) = UNSET

    def text(self) -> str:
        """Say how it ended."""
        return (
            f"experiment {self.experiment}: {self.knob} {self.candidate} compared with "
            f"{self.incumbent}: {self.outcome}, {self.why}; see: kmind why {self.experiment}"
        )


class Kept(_Change, frozen=True, kw_only=True):
    """A gain was measured, and the value stays while it is recommended."""

    instance: _Instance
    id: _Id
    knob: _Knob
    old: _Old
    value: _New
    reason: _Reason
    evidence: _Evidence
    undo: _Undo
    experiment: _Number

    def text(self) -> str:
        """Say what is kept, and why."""
        return (
            f"#{self.id} keeps {self.knob} {self.old} -> {self.value}, "
            f"while it is recommended. {self.reason}"
        )


class Dropped(_Change, frozen=True, kw_only=True):
    """The value from before an experiment is set again."""

    instance: _Instance
    id: _Id
    knob: _Knob
    old: _Old
    value: _New
    outcome: Annotated[str, Meta(description="outcome of the experiment")]
    why: _Why
    experiment: _Number


class Undone(_Change, frozen=True, kw_only=True):
    """A value was put back."""

    instance: _Instance
    id: _Id
    knob: _Knob
    old: _Old
    value: _New
    why: _Why

    def text(self) -> str:
        """Say what was put back, and why."""
        return f"#{self.id} set {self.knob} back {self.old} -> {self.value}: {self.why}"


class Yielded(_Change, frozen=True, kw_only=True):
    """Somebody else set the knob, and their value stays; or its lease went to another instance."""

    warning: ClassVar[bool] = True

    instance: _Instance
    id: _Id
    knob: _Knob
    value: _New
    message: Annotated[str, Meta(description="present holder of the knob, and its value")]

    def text(self) -> str:
        """Say who has the knob now."""
        return f"yields: {self.message}"


class Failed(_Change, frozen=True, kw_only=True):
    """An approved change was not made: the kernel, the policy or the journal refused."""

    warning: ClassVar[bool] = True

    instance: _Instance
    id: _Id
    knob: _Knob
    why: _Why
    tried: Annotated[bool, Meta(description="true if the value was to be written, and that failed")]

    def text(self) -> str:
        """Say that the knob is as it was, and why."""
        return f"#{self.id} {self.knob} is unchanged: {self.why}"


class Mode(_Change, frozen=True, kw_only=True):
    """The instance is in another mode; in emergency everything is put back."""

    warning: ClassVar[bool] = True

    instance: _Instance
    mode: _ModeName
    why: _Why

    def text(self) -> str:
        """Say which mode, and why."""
        return f"{self.instance}: mode {self.mode}: {self.why}"


class Log(Event, frozen=True, kw_only=True):
    """A line of kmind or of an extension.

    kmind says here, too, when an extension misuses its queues: `bad_tail` or `actions_lost` of its
    account grow.
    """

    instance: _Instance | UnsetType = UNSET
    source: Annotated[str, Meta(description="`kmind`, or `extension`")] = "kmind"
    message: Annotated[str, Meta(description="text of the line")]

    def text(self) -> str:
        """Return the line, with who says it."""
        return f"[{self.source}] {self.message}"


class Finding(Event, frozen=True, kw_only=True):
    """A finding of a detector opened, became worse, was acknowledged, or closed."""

    warning: ClassVar[bool] = True

    instance: _Instance
    finding: Annotated[str, Meta(description="id of the finding, for `kmind findings`")]
    kind: Annotated[str, Meta(description="kind of finding or report, by the module's manifest")]
    subject: Annotated[str, Meta(description="target, or part of it, that the finding is of")]
    state: Annotated[str, Meta(description="`open`, `acknowledged` or `closed`")]
    severity: Annotated[str, Meta(description="`info`, `warning` or `critical`")]
    score: Annotated[
        float, Meta(description="severity as a number; `kmind info` explains its meaning")
    ]
    title: Annotated[str, Meta(description="the extension's title, cleaned")]
    evidence: _Evidence
    causes: Annotated[
        Sequence[Mapping[str, Any]],
        Meta(description="hints at the cause: `hint`, and the `evidence` for it"),
    ]
    action: Annotated[str, Meta(description="action that the extension suggests, or empty")]
    why: _Why

    def text(self) -> str:
        """Say what was found, and what became of it."""
        state = f"{self.severity}, {self.state} ({self.why})"
        return f"finding {self.finding[:8]}, {state}: {self.subject}: {self.title}"


class Report(Event, frozen=True, kw_only=True):
    """A reporter filed a report; a repeated one at most once a minute."""

    warning: ClassVar[bool] = True

    instance: _Instance
    report: Annotated[str, Meta(description="id of the report, for `kmind reports`")]
    kind: Annotated[str, Meta(description="kind of finding or report, by the module's manifest")]
    signature: Annotated[str, Meta(description="common key of the reports that are counted as one")]
    title: Annotated[str, Meta(description="the extension's title, cleaned")]
    count: Annotated[int, Meta(description="number of occurrences so far")]
    evidence: _Evidence
    files: Annotated[Sequence[str], Meta(description="names of the files that came with it")]

    def text(self) -> str:
        """Say what was filed, and how often it happened."""
        return f"report {self.report[:8]} of {self.instance}, {self.count} times: {self.title}"


class Stop(_Change, frozen=True, kw_only=True):
    """The instance ended."""

    instance: _Instance
    account: _Account
    changes: Annotated[
        Sequence[Mapping[str, Any]],
        Meta(description="changed knobs, each with its baseline, latest values and value now"),
    ]
    restored: Annotated[bool, Meta(description="true if all that kmind set is put back")]
    failed: Annotated[str, Meta(description="cause of an emergency, or empty")]

    def text(self) -> str:
        """Say what was changed, and what each knob holds now."""
        if not self.changes:
            return f"{self.instance}: stopped; nothing was changed"
        changed = "; ".join(_change_in_words(change) for change in self.changes)
        return f"{self.instance}: stopped; changed {changed}"


class Restored(_Change, frozen=True, kw_only=True):
    """At its start, the daemon or `kmind run` put back a change of an ended process."""

    knob: _Knob
    target: _Target
    found: Annotated[_Value | None, Meta(description="value that was found")]
    value: _New

    def text(self) -> str:
        """Say what was put back."""
        return (
            f"put back from an earlier run: {self.knob} of {self.target}: "
            f"{self.found} -> {self.value}"
        )


class Request(Event, frozen=True, kw_only=True):
    """A client of the API requested a change."""

    audited: ClassVar[bool] = True
    streamed: ClassVar[bool] = False

    method: Annotated[str, Meta(description="HTTP method")]
    path: Annotated[str, Meta(description="path of the request")]
    peer: Annotated[str, Meta(description="user and cgroup of the client")]
    pid: Annotated[int, Meta(description="process that the client connected from")]
    result: Annotated[str, Meta(description="`done`, or the refusal")]

    @property
    def charged_to(self) -> str:
        """The client."""
        return f"peer {self.peer}"


class Trouble(Event, frozen=True, kw_only=True):
    """The API failed at a request, by a fault of kmind."""

    warning: ClassVar[bool] = True
    streamed: ClassVar[bool] = False

    method: Annotated[str, Meta(description="HTTP method")]
    path: Annotated[str, Meta(description="path of the request")]
    traceback: Annotated[str, Meta(description="Python's traceback")]

    @property
    def charged_to(self) -> str:
        """All that fails, together."""
        return "trouble"


class Lost(Event, frozen=True, kw_only=True):
    """A reader of the event stream was too slow; this line replaces the missing ones."""

    logged: ClassVar[bool] = False

    lost: Annotated[int, Meta(description="number of events that the reader missed")]


EVENTS: tuple[type[Event], ...] = tuple(
    kind
    for name, kind in list(vars().items())
    if isinstance(kind, type)
    and issubclass(kind, Event)
    and kind is not Event
    and not name.startswith("_")
)
"""All kinds of event, in the order of this file."""


def decode(fields: Mapping[str, Any]) -> Event:
    """Return the record of a line of JSON; what belongs to the line alone is passed over.

    Raises msgspec.ValidationError where the fields are not those of such an event.
    """
    event: Event = msgspec.convert(fields, type=Union[EVENTS])  # noqa: UP007
    return event


def fields_of(kind: type[Event]) -> dict[str, tuple[str, bool]]:
    """Return the fields of a kind: name to description, and whether the field is always there."""
    return {
        field.name: (_described(field.type), field.default is not UNSET)
        for field in msgspec.structs.fields(kind)
    }


def _described(hint: Any) -> str:
    for part in (hint, *get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            return str(meta.description)
    raise TypeError(f"{hint} has no description")


def _change_in_words(change: Mapping[str, Any]) -> str:
    values = [change["baseline"], *change["values"]]
    steps = " -> ".join(str(value) for value in values[:6]) + (" ..." if values[6:] else "")
    if change["gone"]:
        return f"{change['knob']} {steps}, gone with {change['target']}"
    holds = f"holds {change['now']}"
    if change["now"] == change["baseline"]:
        holds += " again"
    elif change["yielded"]:
        holds += ", set by somebody else"
    else:
        holds += " still: run kmind restore"
    return f"{change['knob']} {steps}, {holds} (check: {change['check']})"
