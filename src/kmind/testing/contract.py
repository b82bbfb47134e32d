# SPDX-License-Identifier: Apache-2.0
"""Checks that every module has to pass, for its author to run.

In a test of the module's own::

    import pytest
    from kmind.testing import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_contract(check):
        check("mymodule")  # or the path of its folder, with a slash in it

They need neither root nor BPF, but for the compiled object beside its source. Those that the
module's class does not ask for (``kmind.classes``) pass at once.
"""

from __future__ import annotations

import ast
import itertools
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.classes import DEVICE, class_names, find_class
from kmind.errors import KmindError
from kmind.extension import ChangeEvent, Extension, Module, VerdictEvent, find_module
from kmind.extension.context import plain
from kmind.extension.handover import FINDINGS_A_MINUTE, OPEN_MOST, REPORTS_A_MINUTE
from kmind.knobs import get_knob
from kmind.testing._agent_object import AgentObject
from kmind.testing._rig import SCRIPTS, Bounds, Made, Rig, loaded

__all__ = ["CHECKS", "Check", "ContractError", "check_module"]

_STATUS_MOST = layout.LIMIT["STATUS_SIZE"] - 8
_REASON_MOST = 300
_OF_EXTENSIONS = frozenset(
    {"construction", "windows", "records", "modes", "verdicts", "repeatable", "status"}
)
_VERDICTS = [name.lower() for name in layout.VERDICT if name != "PENDING"]
_MODES = [name.lower() for name in layout.MODE]


class ContractError(KmindError, AssertionError):
    """A module does not keep to the contract; the message says where."""


@dataclass(frozen=True)
class Check:
    """One thing that a module has to keep to. Call it with a module's name or folder.

    ``classes`` are those that ask for it. Raises ContractError where the module fails it.
    """

    name: str
    meaning: str
    classes: tuple[str, ...]
    _run: Callable[[Module], None]

    def __call__(self, module: str | Path) -> None:
        """Run it on a module, if the module's class asks for it."""
        try:
            module_ = find_module(str(module))
            if module_.manifest.class_ in self.classes:
                self._run(module_)
        except ContractError:
            raise
        except KmindError as error:
            _fail(str(error))

    def __str__(self) -> str:
        return self.name


def check_module(module: str | Path) -> None:
    """Run every check on a module, by name or folder.

    Raises ContractError that lists all checks that failed, one a line.
    """
    failed = []
    for check in CHECKS:
        try:
            check(module)
        except ContractError as error:
            failed.append(f"{check.name}: {error}")
            if check.name == "manifest":
                break
    if failed:
        raise ContractError("\n".join(failed))


def _fail(message: str) -> NoReturn:
    raise ContractError(message)


# The files.


def _check_manifest(module: Module) -> None:
    """The manifest is valid, and its knobs are ones that kmind knows."""
    for use in module.manifest.knobs:
        try:
            knob = get_knob(use.name)
        except KmindError as error:
            _fail(str(error))
        kind = module.manifest.target.kind
        if kind != "any" and knob.target not in (kind, "system"):
            _fail(f"knob {use.name} is not a knob of a {module.manifest.target.kind} target")


def _check_programs(module: Module) -> None:
    """The hooks of the manifest are the programs of the object, at the same places."""
    programs = AgentObject(module).programs
    hooks = {hook.program: hook.tracepoint for hook in module.manifest.hooks}
    for hook in module.manifest.hooks:
        hooks |= {other.program: other.function or other.tracepoint for other in hook.alternatives}
    for name in hooks.keys() - programs.keys():
        _fail(f"hook {name}: the object has no such program")
    for name, section in programs.items():
        if name not in hooks:
            _fail(f"program {name} of the object stands in no hook of the manifest")
        if section.rpartition("/")[2] != hooks[name]:
            _fail(f"hook {name}: the manifest says {hooks[name]}, the object {section}")


def _check_features(module: Module) -> None:
    """Columns have the same names, order and kind in the manifest and in the object."""
    agent = AgentObject(module)
    features = module.manifest.features
    declared = [feature.name for feature in features]
    if agent.features is None and declared:
        _fail(f"the object names no features; put KM_FEATURES({module.manifest.name}_feature) in")
    names = agent.features or []
    for column, (there, here) in enumerate(itertools.zip_longest(names, declared)):
        if there != here:
            _fail(f"feature {column}: the manifest says {here}, the object {there}")
    for column, feature in enumerate(features):
        gauge = bool(agent.gauges >> column & 1)
        if gauge != (feature.kind == "gauge"):
            kind = "gauge" if gauge else "counter"
            _fail(f"feature {feature.name}: the manifest says {feature.kind}, the object {kind}")


def _check_parameters(module: Module) -> None:
    """Parameters with ``agent = true`` are the object's ``param_`` constants."""
    there = AgentObject(module).parameters
    here = {parameter.name for parameter in module.manifest.parameters if parameter.agent}
    for name in sorted(here - there):
        _fail(f"parameter {name}: the object has no constant param_{name}")
    for name in sorted(there - here):
        _fail(f"constant param_{name} of the object is no parameter with agent = true")


def _check_tables(module: Module) -> None:
    """Tables have the same keys and columns, in the same order, in the manifest and the object."""
    there = AgentObject(module).tables
    here = {part.name: part.dtype for part in module.manifest.tables}
    for name in sorted(there.keys() ^ here.keys()):
        has, lacks = ("object", "manifest") if name in there else ("manifest", "object")
        _fail(f"table {name}: the {has} has it, and the {lacks} does not")
    for name, dtype in here.items():
        for what, one, other in (
            ("key", dtype["key"], there[name]["key"]),
            ("row", dtype, there[name]),
        ):
            declared, compiled = _places(one), _places(other)
            for number, (mine, theirs) in enumerate(itertools.zip_longest(declared, compiled)):
                if mine != theirs:
                    _fail(
                        f"table {name}: field {number} of its {what} is {theirs} in the object, "
                        f"and {mine} by the manifest"
                    )


def _places(dtype: np.dtype[np.void]) -> list[str]:
    # Name, place and size of each field; text and bytes are alike.
    fields: Any = dtype.fields or {}
    places = [
        f"{name} ({fields[name][0].itemsize} bytes at {fields[name][1]})"
        for name in dtype.names or ()
    ]
    return [*places, f"its end (at {dtype.itemsize})"]


def _check_imports(module: Module) -> None:
    """The code uses of kmind ``kmind.extension`` (a driver ``kmind.driver``), and its imports."""
    allowed = {"numpy", *(name.partition(".")[0] for name in module.manifest.extension.imports)}
    for path, source in module.sources().items():
        package = f"{module.package}.{path}".removesuffix(".py").replace("/", ".")
        for line, name in _imports(source, package):
            top = name.partition(".")[0]
            own = f"{name}.".startswith(f"{module.package}.")
            public = name == ("kmind.driver" if module.manifest.driver else "kmind.extension")
            if not (own or public or top in allowed or top in sys.stdlib_module_names):
                _fail(f"{path}:{line} imports {name}")


def _imports(source: bytes, package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level] if node.level else []
            yield node.lineno, ".".join([*base, *([node.module] if node.module else [])])


# The extension.


@contextmanager
def _running(module: Module, doing: str, **options: Any) -> Iterator[Rig]:
    # A rig with the extension started; what its code raises is a failure of the check.
    with loaded(module) as kind, _blamed(doing):
        rig = Rig(module.manifest, kind, **options)
        rig.extension.start()
        yield rig


@contextmanager
def _blamed(doing: str) -> Iterator[None]:
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        raise ContractError(f"{doing}: {type(error).__name__}: {error} ({place})") from error


def _runs(module: Module) -> Iterator[tuple[str, Rig]]:
    # The extension after each script, its recommendations approved.
    bounds: tuple[Bounds, ...] = ("from above", "from below", "narrow")
    for bound, (name, script) in itertools.product(bounds, SCRIPTS.items()):
        with _running(module, f"{name}, {bound}", bounds=bound) as rig:
            rig.play(script)
            yield f"{name}, {bound}", rig


def _check_construction(module: Module) -> None:
    """``__init__`` only stores: nothing is recommended, logged, drawn, opened or started."""
    with loaded(module) as kind, _blamed("__init__"):
        threads, files = threading.active_count(), _open_files()
        rig = Rig(module.manifest, kind)
        drawn = rig.context.rng.bit_generator.state
        fresh = np.random.default_rng(int(rig.context.params.get("seed", 0))).bit_generator.state
        for what, happened in (
            ("recommends", bool(rig.made)),
            ("logs", bool(rig.said)),
            ("hands something over", bool(rig.handed_over)),
            ("draws random numbers", drawn != fresh),
            ("starts a thread", threading.active_count() != threads),
            ("opens a file", _open_files() != files),
            ("keeps no context", getattr(rig.extension, "context", None) is not rig.context),
        ):
            if happened:
                _fail(f"__init__ {what}; do it in start")


def _open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing's own is closed again


def _check_windows(module: Module) -> None:
    """Check that nothing is raised, whatever windows hold and however many are missing."""
    for _ in _runs(module):
        pass


def _check_records(module: Module) -> None:
    """Records that make no sense raise nothing."""
    with _running(module, "on_records") as rig:
        for count in (0, 1, 300):
            rig.extension.on_records(_senseless_records(count))


def _senseless_records(count: int) -> npt.NDArray[np.void]:
    # Half of them of a kind that exists, so that the module reads on.
    choose = np.random.default_rng(5)
    records = np.frombuffer(choose.bytes(count * layout.RECORD.itemsize), layout.RECORD).copy()
    records["kind"] |= layout.KIND["MODULE"]
    records["kind"][::2] &= layout.KIND["MODULE"] + 3
    records.flags.writeable = False
    return records


def _check_modes(module: Module) -> None:
    """The agent may move to any mode at any time, emergency too."""
    for mode in _MODES:
        for name, script in SCRIPTS.items():
            with _running(module, f"mode {mode}, {name}") as rig:
                rig.play(script)
                rig.context.mode = mode
                rig.extension.on_mode(mode)
                rig.play(script)


def _check_verdicts(module: Module) -> None:
    """Every verdict and every change is borne, expected or not."""
    for verdict in _VERDICTS:
        for name, script in SCRIPTS.items():
            doing = f"verdict {verdict}, {name}"
            with _running(module, doing, answers=lambda _, verdict=verdict: verdict) as rig:
                rig.play(script)
                _surprise(rig, verdict)
                rig.play(script)


def _surprise(rig: Rig, verdict: str) -> None:
    for info in rig.knobs.values():
        values = {info.baseline, info.decode(info.minimum), info.decode(info.maximum)}
        for value in sorted(values, key=str):
            rig.extension.on_verdict(VerdictEvent(9999, verdict, info.name, value))
            for kind in ("applied", "undone", "failed", "yielded", "kept"):
                rig.extension.on_change(ChangeEvent(kind, 9999, info.name, value))
            for outcome in ("gain", "loss", "no change", "aborted"):
                rig.extension.on_change(ChangeEvent("dropped", 9999, info.name, value, outcome))


def _check_recommendations(module: Module) -> None:
    """Recommended is only what was granted: knob, range, grid and choices."""
    for name, rig in _runs(module):
        by_id = {info.id: info for info in rig.knobs.values()}
        for made in rig.made:
            info = by_id[made.knob]
            low, high, grid = info.minimum, info.maximum, max(info.grid, 1)
            if not low <= made.value <= high or made.value % grid:
                _fail(
                    f"{name}: {info.name} {made.value} is recommended; granted are multiples of "
                    f"{grid} from {low} to {high}"
                )


def _check_reasons(module: Module) -> None:
    """Each recommendation has a reason, one short sentence, and finite evidence."""
    for name, rig in _runs(module):
        for made in rig.made:
            _check_note(name, made)


def _check_note(name: str, made: Made) -> None:
    reason, evidence = str(made.note["reason"]), made.note["evidence"]
    if not reason.endswith(".") or not 1 < len(reason) < _REASON_MOST:
        _fail(
            f"{name}: the reason must be a sentence with a full stop, shorter than "
            f"{_REASON_MOST} characters: {reason!r}"
        )
    for key, value in evidence.items():
        if isinstance(value, float) and not math.isfinite(value):
            _fail(f"{name}: evidence {key} is {value}")


def _check_abstention(module: Module) -> None:
    """A predictor that has seen nothing recommends nothing."""
    for name in ("no windows", "windows of zeros"):
        with _running(module, name) as rig:
            rig.play(SCRIPTS[name])
            if rig.made:
                _fail(f"{name}: something is recommended, though there is nothing to predict from")


def _check_findings(module: Module) -> None:
    """Findings are sentences, few enough to be taken, and cleared only after they were found."""
    # A kind that is not declared, and text or numbers that do not fit, raise where they are made.
    for name, rig in _runs(module):
        open_now: set[tuple[str, str]] = set()
        notes = [(what, note) for what, note in _notes(rig) if what in ("finding", "cleared")]
        if len(notes) > FINDINGS_A_MINUTE:
            _fail(f"{name}: {len(notes)} notes of findings; {FINDINGS_A_MINUTE} a minute are taken")
        for what, note in notes:
            key = note["kind"], note["part"]
            if what == "finding":
                open_now.add(key)
                _check_title(name, note)
            elif key not in open_now:
                _fail(f"{name}: {note['kind']} is cleared, and was not found before")
            else:
                open_now.remove(key)
            if len(open_now) > OPEN_MOST:
                _fail(f"{name}: more than {OPEN_MOST} findings are open")


def _check_reports(module: Module) -> None:
    """Reports are sentences, and few enough to be taken, whatever the records are."""
    for name, rig in _runs(module):
        _check_filed(name, rig)
    with _running(module, "records without sense") as rig:
        for _ in range(100):
            rig.extension.on_records(_senseless_records(300))
            rig.now += 0.1
        _check_filed("records without sense", rig)


def _check_filed(name: str, rig: Rig) -> None:
    notes = [note for what, note in _notes(rig) if what == "report"]
    if len(notes) > REPORTS_A_MINUTE:
        _fail(f"{name}: {len(notes)} reports are filed; {REPORTS_A_MINUTE} a minute are taken")
    for note in notes:
        _check_title(name, note)


def _notes(rig: Rig) -> list[tuple[str, dict[str, Any]]]:
    return [(what, msgspec.json.decode(text)) for what, text in rig.handed_over]


def _check_title(name: str, note: Mapping[str, Any]) -> None:
    if not note["title"].endswith("."):
        _fail(f"{name}: the title must be a sentence with a full stop: {note['title']!r}")


def _check_repeatable(module: Module) -> None:
    """Same windows, same seed: same recommendations and the same status."""
    first, second = (
        [
            (name, rig.made, rig.handed_over, _status(name, rig.extension))
            for name, rig in _runs(module)
        ]
        for _ in range(2)
    )
    for (name, *one), (_, *other) in zip(first, second, strict=True):
        if one != other:
            _fail(f"{name}: two runs end differently: {one} and {other}")


def _check_status(module: Module) -> None:
    """``status()`` is a small mapping that JSON can hold, at any time."""
    with _running(module, "status before any window") as rig:
        _status("before any window", rig.extension)
    for name, rig in _runs(module):
        _status(name, rig.extension)


def _status(name: str, extension: Extension) -> bytes:
    status = extension.status()
    if not isinstance(status, Mapping):
        _fail(f"{name}: status() is a {type(status).__name__}, and must be a mapping")
    try:
        text = msgspec.json.encode(status, enc_hook=plain)
    except (TypeError, msgspec.MsgspecError) as error:
        _fail(f"{name}: status() is not for JSON: {error}")
    if len(text) > _STATUS_MOST:
        _fail(f"{name}: status() takes {len(text)} bytes, and may take {_STATUS_MOST}")
    return text


def _classes_of(name: str) -> tuple[str, ...]:
    # A check that no class names is for all; a driver's class is no extension to be called.
    asking = tuple(class_ for class_ in class_names() if name in find_class(class_).checks)
    called = tuple(name for name in class_names() if DEVICE not in find_class(name).services)
    return asking or (called if name in _OF_EXTENSIONS else class_names())


def _made(run: Callable[[Module], None]) -> Check:
    name = run.__name__.removeprefix("_check_")
    return Check(name, run.__doc__ or "", _classes_of(name), run)


CHECKS: tuple[Check, ...] = tuple(
    _made(run)
    for run in (
        _check_manifest,
        _check_programs,
        _check_features,
        _check_parameters,
        _check_tables,
        _check_imports,
        _check_construction,
        _check_windows,
        _check_records,
        _check_modes,
        _check_verdicts,
        _check_recommendations,
        _check_reasons,
        _check_abstention,
        _check_findings,
        _check_reports,
        _check_repeatable,
        _check_status,
    )
)
"""All checks, in the order in which they make sense."""
