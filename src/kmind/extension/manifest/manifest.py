# SPDX-License-Identifier: Apache-2.0
"""Manifest of a module: ``module.toml``, beside its code.

The records below are the manifest's schema: parser, errors, ``kmind info`` and the command line's
parameters are made from them. Reading a manifest runs none of the module's code.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from kmind.abi import layout
from kmind.classes import DEVICE, find_class, lacking
from kmind.driver.agents import ready_agent
from kmind.errors import UsageError
from kmind.extension._parameter import Name, Parameter, Part, Text, Value
from kmind.extension.manifest._driver import DriverKnob, DriverPart
from kmind.extension.manifest._handed_over import FindingPart, ReportPart, Severity
from kmind.extension.manifest._objective import ObjectivePart
from kmind.extension.manifest._table import TableColumn, TableKey, TablePart
from kmind.extension.manifest._toml import TomlFile
from kmind.extension.manifest.alias import Alias
from kmind.extension.manifest.outcome import CircumstancePart, EvidencePart, GuardPart, OutcomePart
from kmind.knobs import get_knob

__all__ = [
    "AgentPart",
    "CircumstancePart",
    "DriverKnob",
    "DriverPart",
    "EvidencePart",
    "ExtensionPart",
    "Feature",
    "FindingPart",
    "GuardPart",
    "Hook",
    "HookAlternative",
    "HookWhile",
    "KnobUse",
    "Limits",
    "Manifest",
    "ModelFeature",
    "ModelPart",
    "ObjectivePart",
    "OutcomePart",
    "Parameter",
    "RecordField",
    "RecordKind",
    "ReportPart",
    "SandboxPart",
    "Severity",
    "TableColumn",
    "TableKey",
    "TablePart",
    "TargetPart",
    "TrainPart",
    "Value",
    "load_manifest",
]


_Dotted = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=200)]


class AgentPart(Part, frozen=True):
    """``[agent]``: ``object`` is the C source, compiled to ``.bpf.o`` beside it."""

    object: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*\.bpf\.c$")]


class ExtensionPart(Part, frozen=True):
    """``[extension]``: ``entry`` is ``file:Class``.

    ``imports`` are the packages outside of the module and the standard library that its code
    uses. They are imported once the privileges are dropped, and then nothing else can be. None
    may be of the module's own distribution: what is its own stands in its folder.
    """

    entry: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")]
    imports: tuple[_Dotted, ...] = ()


class TargetPart(Part, frozen=True):
    """``[target]``: what an instance is bound to.

    A block device, the whole system, a cgroup, or ``any`` of these.
    """

    kind: Literal["block", "system", "cgroup", "any"]


class TrainPart(Part, frozen=True):
    """``[train]``: ``entry`` is ``file:Class`` of the recipe for `kmind train`.

    It learns from recordings of ``module``, or of the module itself ("").
    """

    entry: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")]
    module: str = ""


class ModelFeature(Part, frozen=True):
    """``[[model.feature]]``: a number that the agent decides by, as an integer of that unit."""

    name: Text
    unit: str = ""


class ModelPart(Part, frozen=True):
    """``[model]``: the agent decides by models over these features, in their order.

    A model is taken only if its features have these names and units, and if a decision is
    estimated to take no more than ``budget_ns``. ``trained_with`` names parameters of the
    instance that say what the labels mean: each has to be what the notes of the model's card say.
    """

    features: Annotated[tuple[ModelFeature, ...], msgspec.Meta(min_length=1, max_length=256)] = (
        msgspec.field(name="feature")
    )
    budget_ns: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5000
    trained_with: tuple[Name, ...] = ()


class Limits(Part, frozen=True):
    """``[limits]``: what the extension may use; above that its instance is stopped.

    ``cpu_percent`` is of one CPU, ``memory_mib`` counts what its cgroup is charged with,
    and ``pids`` its processes and threads. The bounds are kmind's own choice: an extension
    that imports numpy and no more takes about 30 MiB, so 64 is twice what each needs.
    """

    cpu_percent: Annotated[int, msgspec.Meta(ge=1, le=400)] = 50
    memory_mib: Annotated[int, msgspec.Meta(ge=64, le=4096)] = 256
    pids: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16


class SandboxPart(Part, frozen=True):
    """``[sandbox]``: what the extension gets beside its arena, which is nothing by default.

    ``files`` are absolute paths that it may read, of a folder all that is below it;
    ``network`` says whether it may open sockets.
    """

    files: tuple[Text, ...] = ()
    network: bool = False

    def __post_init__(self) -> None:
        for path in self.files:
            if not path.startswith("/") or path.startswith("//") or os.path.normpath(path) != path:
                raise ValueError(f"files: {path!r} is no absolute path without . and ..")
            if path == "/":
                raise ValueError("files: '/' is every file; name those that are needed")


class KnobUse(Part, frozen=True):
    """``[[knob]]``: a knob, by its name in ``kmind.knobs``, that the module may move.

    Where two instances want it, the one of higher ``priority`` gets it.
    """

    name: Text
    priority: Annotated[int, msgspec.Meta(ge=0, le=255)] = 100


class HookWhile(Part, frozen=True):
    """``while`` of a hook: attach it only while a counter grows faster than ``above`` a second."""

    feature: Name
    above: Annotated[float, msgspec.Meta(ge=0)]


class HookAlternative(Part, frozen=True):
    """``[[hook.alternative]]``: a program that does the hook's work where its own cannot run.

    It stands on a ``function`` of the kernel (fentry, fexit), or on another ``tracepoint``;
    ``loses`` says what it does not see.
    """

    program: Text
    function: str = ""
    tracepoint: str = ""
    loses: str = ""

    def __post_init__(self) -> None:
        if bool(self.function) == bool(self.tracepoint):
            raise ValueError("an alternative names either a function or a tracepoint")


class Hook(Part, frozen=True):
    """``[[hook]]``: a program of the agent and the tracepoint that it stands on.

    The first of its program and the ``alternatives`` that the kernel can run does the work.
    Without an ``optional`` one the module still works; ``costs`` says what is lost.
    One with ``while`` costs nothing while there is nothing to see.
    """

    program: Text
    tracepoint: Text
    optional: bool = False
    costs: str = ""
    while_: HookWhile | None = msgspec.field(name="while", default=None)
    alternatives: tuple[HookAlternative, ...] = msgspec.field(name="alternative", default=())

    def __post_init__(self) -> None:
        if self.optional and not self.costs:
            raise ValueError("an optional hook has to say what its absence costs")


class Feature(Part, frozen=True):
    """``[[feature]]``: one column of a window, in order.

    A counter starts at 0 in each window; a gauge has its value at the window's end.
    """

    name: Name
    kind: Literal["counter", "gauge"]
    help: Text
    unit: str = ""


class RecordField(Part, frozen=True):
    """``[[record.field]]``: bits of a record's ``subject`` or ``value``, by a name.

    ``shift`` bits are left out below it, and ``bits`` belong to it (0: all that are left).
    """

    name: Name
    of: Literal["subject", "value"]
    help: Text
    unit: str = ""
    shift: Annotated[int, msgspec.Meta(ge=0, le=63)] = 0
    bits: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    signed: bool = False

    def __post_init__(self) -> None:
        if self.shift + self.bits > (32 if self.of == "subject" else 64):
            raise ValueError(f"field {self.name}: {self.of} has fewer bits")

    @property
    def width(self) -> int:
        """Width in bits."""
        return self.bits or (32 if self.of == "subject" else 64) - self.shift


class RecordKind(Part, frozen=True):
    """``[[record]]``: what one kind of the module's own records says.

    ``kind`` counts from 0, where the C adds it to ``KMIND_KIND_MODULE``.
    """

    kind: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    name: Name
    help: Text
    fields: tuple[RecordField, ...] = msgspec.field(name="field", default=())


class _ReadyAgent(Part, frozen=True):
    # What a ready agent brings along, written as in a manifest.
    hooks: tuple[Hook, ...] = msgspec.field(name="hook", default=())
    features: tuple[Feature, ...] = msgspec.field(name="feature", default=())
    tables: tuple[TablePart, ...] = msgspec.field(name="table", default=())


class Manifest(Part, frozen=True):
    """A whole ``module.toml``.

    ``class_`` names a class of ``kmind.classes``, which says which of the parts it may hold.
    ``aliases`` are the devices that it is for (``kmind.extension.manifest.alias``), ``depends`` the
    modules that have to run before, and ``conflicts`` those that may not run beside it.
    ``chosen_by`` names the parameter that lists which of the knobs an instance gets. A driver
    without ``agent`` has the ready one of its kind, with the hooks, features and tables of that.
    """

    name: Name
    version: Text
    class_: Text = msgspec.field(name="class")
    description: Text
    author: Text
    licence: Text
    extension: ExtensionPart
    target: TargetPart
    agent: AgentPart | None = None
    driver: DriverPart | None = None
    aliases: tuple[str, ...] = ()
    depends: tuple[Name, ...] = ()
    conflicts: tuple[Name, ...] = ()
    chosen_by: str = ""
    objective: ObjectivePart | None = None
    limits: Limits = Limits()
    sandbox: SandboxPart = SandboxPart()
    train: TrainPart | None = None
    model: ModelPart | None = None
    parameters: tuple[Parameter, ...] = msgspec.field(name="parameter", default=())
    knobs: tuple[KnobUse, ...] = msgspec.field(name="knob", default=())
    hooks: tuple[Hook, ...] = msgspec.field(name="hook", default=())
    features: tuple[Feature, ...] = msgspec.field(name="feature", default=())
    outcomes: tuple[OutcomePart, ...] = msgspec.field(name="outcome", default=())
    guards: tuple[GuardPart, ...] = msgspec.field(name="guard", default=())
    circumstances: tuple[CircumstancePart, ...] = msgspec.field(name="circumstance", default=())
    evidence: EvidencePart = EvidencePart()
    records: tuple[RecordKind, ...] = msgspec.field(name="record", default=())
    tables: tuple[TablePart, ...] = msgspec.field(name="table", default=())
    findings: tuple[FindingPart, ...] = msgspec.field(name="finding", default=())
    reports: tuple[ReportPart, ...] = msgspec.field(name="report", default=())

    def __post_init__(self) -> None:
        limit = layout.LIMIT["FEATURES"]
        if len(self.features) > limit:
            raise ValueError(f"feature: {len(self.features)}, and a window holds {limit}")
        limit = layout.LIMIT["TABLES"]
        if len(self.tables) > limit:
            raise ValueError(f"table: {len(self.tables)}, and a module has at most {limit}")
        size, limit = sum(t.shape.size for t in self.tables), layout.LIMIT["TABLE_BYTES"]
        if size > limit:
            raise ValueError(
                f"table: rows take {size:,} bytes of kernel memory, and a module has {limit:,}"
            )
        self._check_names()
        self._check_class()
        self._check_driver()
        self._check_modules()
        for index, text in enumerate(self.aliases):
            try:
                alias = Alias.parse(text)
            except ValueError as error:
                raise ValueError(f"aliases[{index}]: {error}") from None
            if self.target.kind == "block" and alias.subsystem != "block":
                raise ValueError(
                    f"aliases[{index}]: {text!r} names no block device, and the target is one"
                )
        counters = {f.name for f in self.features if f.kind == "counter"}
        programs = {hook.program for hook in self.hooks}
        for index, hook in enumerate(self.hooks):
            for other in hook.alternatives:
                if other.program in programs:
                    raise ValueError(
                        f"hook[{index}].alternative: {other.program!r} occurs more than once"
                    )
                programs.add(other.program)
            if hook.while_ and hook.while_.feature not in counters:
                raise ValueError(
                    f"hook[{index}].while: {hook.program} waits for "
                    f"{hook.while_.feature!r}, which is no counter"
                )

        self._check_parameters()
        for field, parts in (
            ("outcome", [part.features for part in self.outcomes]),
            ("guard", [part.features for part in self.guards]),
            ("circumstance", [part.features for part in self.circumstances]),
        ):
            for index, names in enumerate(parts):
                for name in names:
                    if name not in counters:
                        raise ValueError(f"{field}[{index}]: {name!r} is no counter")
        self._check_outcomes()

    def _check_outcomes(self) -> None:
        classes = {
            circumstance.name: (*circumstance.classes, "none")
            for circumstance in self.circumstances
        }
        for index, outcome in enumerate(self.outcomes):
            for field in ("when", "candidate_when", "guard_when"):
                tables = getattr(outcome, field)
                for name, wanted in (pair for table in tables for pair in table.items()):
                    if wanted not in classes.get(name, ()):
                        at = f"outcome[{index}].{field}"
                        raise ValueError(f"{at}: {name} = {wanted!r} is no class of a circumstance")
            if any(guard.name == outcome.name for guard in self.guards):
                raise ValueError(f"outcome[{index}]: a guard is called {outcome.name!r} too")
        if self.outcomes and all(outcome.when for outcome in self.outcomes):
            raise ValueError("outcome: one must have no when, to decide if no other's when holds")

    def _check_names(self) -> None:
        for field, names in (
            ("parameter[{}].name", [p.name for p in self.parameters]),
            ("knob[{}].name", [k.name for k in self.knobs]),
            ("hook[{}].program", [h.program for h in self.hooks]),
            ("feature[{}].name", [f.name for f in self.features]),
            ("outcome[{}].name", [o.name for o in self.outcomes]),
            ("guard[{}].name", [g.name for g in self.guards]),
            ("circumstance[{}].name", [c.name for c in self.circumstances]),
            ("table[{}].name", [t.name for t in self.tables]),
            ("record[{}].name", [r.name for r in self.records]),
            ("record[{}].kind", [str(r.kind) for r in self.records]),
            ("finding[{}].name", [f.name for f in self.findings]),
            ("report[{}].name", [r.name for r in self.reports]),
            ("aliases[{}]", self.aliases),
            ("depends[{}]", self.depends),
            ("conflicts[{}]", self.conflicts),
        ):
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise ValueError(f"{field.format(index)}: {name!r} occurs more than once")

    def _check_class(self) -> None:
        try:
            find_class(self.class_)
        except ValueError as error:
            raise ValueError(f"class: {error}") from None
        names = dict(zip(self.__struct_encode_fields__, self.__struct_fields__, strict=True))
        for part, why in lacking(self.class_).items():
            value = getattr(self, names[part])
            if value and value != EvidencePart():
                raise ValueError(f"{part}{'[0]' if isinstance(value, tuple) else ''}: {why}")

    def _check_driver(self) -> None:
        if self.driver is None:
            if DEVICE in find_class(self.class_).services:
                raise ValueError(f"driver: a {self.class_} needs it: say what device it serves")
            if self.agent is None:
                raise ValueError("agent: missing; only a driver has one ready")
            return
        if self.target.kind != "system":
            raise ValueError("target.kind: a driver makes its device, so its target is the system")
        if self.driver.least_mib > self.limits.memory_mib:
            raise ValueError(
                f"driver: {self.driver.depth} requests of {self.driver.max_io_kib} KiB, and its "
                f"process, take {self.driver.least_mib} MiB; limits.memory_mib is "
                f"{self.limits.memory_mib}"
            )
        kept = self.driver.memory
        types = {parameter.name: parameter.type for parameter in self.parameters}
        if kept and types.get(kept) != "int":
            raise ValueError(f"driver.memory: {kept!r} is no parameter of type int")

    def _check_parameters(self) -> None:
        declared = {parameter.name: parameter.type for parameter in self.parameters}
        if self.chosen_by and declared.get(self.chosen_by) != "str":
            raise ValueError(f"chosen_by: {self.chosen_by!r} is no parameter of type str")
        for name in self.model.trained_with if self.model else ():
            if name not in declared:
                raise ValueError(f"model: trained_with: {name!r} is no parameter")
        if self.objective is None:
            return
        part = self.objective
        wanted = {part.what: "str", part.better: "enum", part.every: "float"}
        wanted |= {part.timeout: "float", part.looks_back: "float", part.user: "str"}
        for name, kind in wanted.items():
            if declared.get(name) != kind:
                raise ValueError(f"objective: {name!r} is no parameter of type {kind}")

    def _check_modules(self) -> None:
        for field, names in (("depends", self.depends), ("conflicts", self.conflicts)):
            if self.name in names:
                index = names.index(self.name)
                raise ValueError(f"{field}[{index}]: {self.name!r} is this module itself")
        for index, name in enumerate(self.conflicts):
            if name in self.depends:
                raise ValueError(f"conflicts[{index}]: {name!r} is in depends too")

    def replacements(self, replaced: Mapping[str, str]) -> list[tuple[Hook, HookAlternative]]:
        """The hooks whose work another program does (``replaced``: hook to it), with its part."""
        return [
            (hook, other)
            for hook in self.hooks
            for other in hook.alternatives
            if replaced.get(hook.program) == other.program
        ]

    @property
    def columns(self) -> dict[str, int]:
        """Feature name to column of a window's ``value``."""
        return {feature.name: column for column, feature in enumerate(self.features)}


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises ModuleError that names the file, the line and the field.
    """
    file = TomlFile(path, hint="a module is a folder with a module.toml")
    manifest = _with_ready_agent(file, file.read(Manifest))
    kind = manifest.target.kind
    for index, use in enumerate(manifest.knobs):
        field = f"knob[{index}].name"
        try:
            knob = get_knob(use.name)
        except UsageError as error:
            raise file.wrong(field, str(error)) from None
        if kind != "any" and knob.target not in (kind, "system"):
            raise file.wrong(field, f"{use.name} is not a knob of a {kind} target")
    return manifest


def _with_ready_agent(file: TomlFile, manifest: Manifest) -> Manifest:
    if manifest.driver is None or manifest.agent is not None:
        return manifest
    for field, parts in (
        ("hook", manifest.hooks),
        ("feature", manifest.features),
        ("table", manifest.tables),
    ):
        if parts:
            raise file.wrong(f"{field}[0]", "needs an agent of the module's own, [agent]")
    _, parts_of = ready_agent(manifest.driver.kind)
    ready = TomlFile(parts_of).read(_ReadyAgent)
    return msgspec.structs.replace(
        manifest, hooks=ready.hooks, features=ready.features, tables=ready.tables
    )
