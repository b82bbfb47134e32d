# SPDX-License-Identifier: Apache-2.0
"""``kmind model``: make model files, look at them, and give them to running instances."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmind.cli.client import Client, path_to
from kmind.cli.output import json_line, write
from kmind.errors import KmindError, ModelError, UsageError
from kmind.util.foreign import foreign

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kmind.infer.features import Feature
    from kmind.infer.floating import FloatModel
    from kmind.infer.model_file import ModelFile
    from kmind.infer.reference import Decisions

__all__ = [
    "FORMATS",
    "bench_command",
    "check_command",
    "deploy_command",
    "import_command",
    "rollback_command",
    "show_command",
]

FORMATS = ("auto", "onnx", "lightgbm", "xgboost")
"""Formats that ``kmind model import`` reads; ``auto`` detects the file's."""

_BENCH_ROWS = 4096
_BENCH_TURNS = 7


def import_command(
    source: Path,
    output: Path,
    *,
    calibration: Path,
    label: str | None,
    format: str,
    classes: Sequence[str],
    units: Sequence[str],
    names: Sequence[str] = (),
    limit: float,
    all_rounds: bool = False,
    exact: bool = True,
    card: Path | None,
    force: bool,
    json: bool,
) -> int:
    """Import a float model, quantise it, and write the model file."""
    from kmind.infer.features import Feature
    from kmind.infer.quantiser.quantise import quantise
    from kmind.infer.table import read_table

    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="add --force to replace it")
    model = _read(source, format, classes, all_rounds)
    table = read_table(calibration)
    if model.names:
        columns = table.match(model.names, _named(names, model.names))
    else:
        columns = tuple(name for name in table.columns if name != label)
    if len(columns) != model.features:
        raise ModelError(
            f"{calibration} has {len(columns)} features, the model takes {model.features}"
        )
    given = _units(units, columns)
    features = [Feature(name, *given.get(name, ())) for name in columns]
    rows = table.features(columns)
    held_out = None
    if label is not None:
        if label not in table.columns:
            raise ModelError(f"{calibration} lacks the column {label!r}")
        # Later rows are held out: what comes next is what a model will meet.
        first = len(rows) * 2 // 3
        held_out = (rows[first:], table.columns[label][first:])
        rows = rows[:first]
    file = quantise(
        model, rows, held_out, features=features, limit=limit, exact=exact, card=_card(card)
    )
    file.save(output)
    _show(file, output, json)
    return 0


def _named(words: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Parse ``queue_depth=queue depth``: a feature of the model, and its column."""
    given = {}
    for word in words:
        fitting = [name for name in names if word.startswith(f"{name}=")]
        if not fitting:
            raise UsageError(
                f"--names {word}: there is no such feature", hint=f"these are: {', '.join(names)}"
            )
        name = max(fitting, key=len)
        given[name] = word[len(name) + 1 :]
    return given


def _read(
    source: Path, format: str, classes: Sequence[str], all_rounds: bool = False
) -> FloatModel:
    from kmind.infer import from_lightgbm, from_onnx, from_xgboost

    kind = _guess(source) if format == "auto" else format
    if kind == "onnx":
        return from_onnx(source, classes)
    if kind == "lightgbm":
        model = from_lightgbm(source)
    else:
        model = from_xgboost(source, all_rounds=all_rounds)
    if classes and len(classes) != len(model.target.classes):
        raise ModelError(
            f"{len(classes)} classes are named, the model has {len(model.target.classes)}"
        )
    if classes:
        model = replace(model, target=replace(model.target, classes=tuple(classes)))
    return model


def _guess(source: Path) -> str:
    try:
        with source.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise ModelError(f"{source}: {error.strerror or error}") from None
    if start.startswith(b"tree"):
        return "lightgbm"
    return "xgboost" if start.startswith(b"{") else "onnx"


def _units(words: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Parse ``latency=ns`` and ``latency=ns*1e-6``."""
    given = {}
    for word in words:
        name, equals, rest = word.partition("=")
        unit, star, scale = rest.partition("*")
        if not equals or name not in names:
            raise UsageError(
                f"--unit {word}: there is no such feature", hint=f"these are: {', '.join(names)}"
            )
        try:
            given[name] = (unit, float(scale) if star else 1.0)
        except ValueError:
            raise UsageError(
                f"--unit {word}: {scale!r} is not a number", hint="write it as latency=ns*1e-6"
            ) from None
        if not 0 < given[name][1] < float("inf"):
            raise UsageError(f"--unit {word}: the scale is not positive", hint="omit it")
    return given


def _card(path: Path | None) -> Mapping[str, Any]:
    import json

    if path is None:
        return {}
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    with foreign(lambda _: ModelError(f"{path}: not JSON")):
        card = json.loads(text)
    if not isinstance(card, dict):
        raise ModelError(f"{path}: a card is a JSON object")
    return card


def show_command(path: Path, *, json: bool) -> int:
    """Show what a model file says of itself."""
    from kmind.infer.model_file import ModelFile

    _show(ModelFile.load(path), path, json)
    return 0


def _facts(file: ModelFile, path: Path) -> dict[str, Any]:
    from kmind.infer.integer import IntMlp
    from kmind.infer.packing.cost import estimate_ns

    model = file.model
    shape: dict[str, Any]
    if isinstance(model, IntMlp):
        shape = {"kind": "network", "shape": list(model.shape)}
    else:
        shape = {
            "kind": "trees",
            "trees": len(model.root),
            "depth": model.depth,
            "nodes": len(model.feature),
        }
    return {
        "file": str(path),
        "hash": file.hash,
        "schema_hash": file.schema_hash.hex(),
        **shape,
        "output": model.output.kind,
        "classes": list(file.classes),
        "features": [
            {"name": feature.name, "unit": feature.unit, "scale": feature.scale}
            for feature in file.features
        ],
        "slot_bytes": len(file.slot()),
        "estimate_ns": round(estimate_ns(model), 1),
        "usual_ns": round(estimate_ns(model, close=False), 1),
        "quantisation": dict(file.quantisation),
        "card": dict(file.card),
    }


def _show(file: ModelFile, path: Path, json: bool) -> None:
    facts = _facts(file, path)
    if json:
        write(json_line("kmind.modelfile/1", facts) + "\n")
        return
    size = (
        "-".join(map(str, facts["shape"]))
        if "shape" in facts
        else f"{facts['trees']} of depth {facts['depth']}, {facts['nodes']} nodes"
    )
    lines = [
        ("file", str(path)),
        ("hash", file.hash),
        ("model", f"{facts['kind']}, {size}"),
        ("output", facts["output"] + (f": {', '.join(file.classes)}" if file.classes else "")),
        ("features", ", ".join(_feature(feature) for feature in file.features)),
        ("estimate", _cost(facts)),
        ("slot", f"{facts['slot_bytes']:,} bytes"),
    ]
    lost = file.quantisation.get("lost_points")
    if isinstance(lost, int | float):
        q = file.quantisation
        lines.append(
            ("integers cost", f"{lost:.2f} points of {q.get('metric')} over {q.get('rows')} rows")
        )
    lines += _agreed(file.quantisation)
    lines += [(f"card: {name}", str(value)) for name, value in file.card.items()]
    for name, value in lines:
        write(f"{_printable(name):>14}  {_printable(value)}\n")


def _cost(facts: Mapping[str, Any]) -> str:
    text = f"at most {facts['estimate_ns']:,.0f} ns a decision"
    if facts["usual_ns"] == facts["estimate_ns"]:
        return text
    return f"{text}, {facts['usual_ns']:,.0f} ns unless it is a close call"


def _agreed(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return lines about the model's agreement with its library."""
    lines = []
    if facts.get("library"):
        rows, edges = facts.get("library_rows"), facts.get("library_edges")
        text = f"{facts.get('library_differ')} of {rows} calibration rows differ"
        if edges:
            text += f", and {facts.get('library_edges_differ')} of {edges} rows at thresholds"
        lines.append((f"{facts['library']}", text))
    elif facts.get("library_missing"):
        lines.append(("library", f"not compared: {facts['library_missing']} is not installed"))
    if facts.get("close_calls"):
        how = {"exact": "by the library's own sums", "rounded": "by rounded leaves"}
        lines.append(("close calls", how.get(str(facts["close_calls"]), "unknown")))
    notes = facts.get("notes")
    lines += [("note", str(note)) for note in notes] if isinstance(notes, list) else []
    return lines


def _feature(feature: Feature) -> str:
    scale = f"*{feature.scale:g}" if feature.scale != 1 else ""
    return f"{feature.name} [{feature.unit}{scale}]" if feature.unit or scale else feature.name


def _printable(text: str) -> str:
    # A file is a stranger's: it must not steer the terminal.
    return "".join(char if char.isprintable() else "?" for char in text)[:2000]


def check_command(path: Path, *, budget_ns: float | None, json: bool) -> int:
    """Check a model file: whole, within the budget, and deciding as when it was made."""
    from kmind.infer.model_file import ModelFile
    from kmind.infer.packing.cost import check_budget, estimate_ns
    from kmind.infer.selftest import check_selftest

    file = ModelFile.load(path)
    try:
        recorded = check_selftest(file)
        if budget_ns is not None:
            check_budget(file.model, budget_ns)
    except ModelError as error:
        raise ModelError(f"{path}: {error.args[0]}", hint=error.hint) from None
    estimate = estimate_ns(file.model)
    answer = {
        "file": str(path),
        "hash": file.hash,
        "selftest": "passed" if recorded else "not recorded",
        "estimate_ns": round(estimate, 1),
        "budget_ns": budget_ns,
    }
    if json:
        write(json_line("kmind.modelcheck/1", answer) + "\n")
        return 0
    budget = f"budget {budget_ns:,.0f} ns" if budget_ns is not None else "no budget given"
    write(
        f"{path}: good; hash {file.hash[:16]}; self test {answer['selftest']}; "
        f"at most {estimate:,.0f} ns a decision, {budget}\n"
    )
    return 0


def bench_command(path: Path, *, json: bool) -> int:
    """Time the kernel's evaluator, where it may be loaded, and the reference in numpy.

    Both decide on the same vectors; where they differ it is an error.
    """
    from kmind.infer.model_file import ModelFile
    from kmind.infer.reference import evaluate
    from kmind.infer.selftest import vectors

    file = ModelFile.load(path)
    x = vectors(file.model, _BENCH_ROWS)
    decisions = evaluate(file.model, x)
    spent = _times(lambda: evaluate(file.model, x))
    answer: dict[str, Any] = {
        "file": str(path),
        "hash": file.hash,
        "reference_ns": round(spent[len(spent) // 2] / _BENCH_ROWS, 1),
        "reference_ns_spread": [round(ns / _BENCH_ROWS, 1) for ns in (spent[0], spent[-1])],
    }
    answer |= _in_kernel(file, x, decisions)
    if answer["bit_exact"] is False:
        raise ModelError(f"{path}: the kernel's decisions differ from the reference's")
    if json:
        write(json_line("kmind.modelbench/1", answer) + "\n")
        return 0
    kernel = f"{answer['ns']} ns" if answer["ns"] is not None else f"not measured: {answer['why']}"
    write(f"in the kernel: {kernel}, estimated {answer['estimate_ns']} ns\n")
    write(f"reference in numpy: {answer['reference_ns']} ns a decision\n")
    return 0


def _in_kernel(file: ModelFile, x: NDArray[np.int64], decisions: Decisions) -> dict[str, Any]:
    from kmind.agent.kernel.evaluator import KernelEvaluator
    from kmind.infer.packing.cost import estimate_ns
    from kmind.infer.selftest import digest_of

    answer: dict[str, Any] = {
        "estimate_ns": round(estimate_ns(file.model), 1),
        "ns": None,
        "ns_spread": None,
        "bit_exact": None,
        "why": "",
    }
    try:
        with KernelEvaluator() as kernel:
            kernel.load(file.model)
            answer["bit_exact"] = digest_of(kernel.evaluate(x)) == digest_of(decisions)
            spent = sorted(kernel.time_ns(x) for _ in range(_BENCH_TURNS))
    except KmindError as error:
        return answer | {"why": str(error)}
    ends = [round(ns, 1) for ns in (spent[0], spent[-1])]
    return answer | {"ns": round(spent[len(spent) // 2], 1), "ns_spread": ends}


def deploy_command(path: Path, instance: str, *, json: bool, socket: Path | None) -> int:
    """Have a running instance decide by a model file."""
    from kmind.infer.model_file import ModelFile
    from kmind.serve.schema import MODEL_BYTES

    file = ModelFile.load(path)
    data = file.to_bytes()
    if len(data) > MODEL_BYTES:
        raise ModelError(
            f"{path}: {len(data):,} bytes; an agent takes {MODEL_BYTES:,} at most",
            hint="train a smaller model",
        )
    body = {"file": b64encode(data).decode("ascii")}
    answer = Client(socket).call("PUT", path_to("instance", instance) + "/model", body)
    _changed(instance, answer, json)
    return 0


def rollback_command(instance: str, *, json: bool, socket: Path | None) -> int:
    """Switch a running instance back to its earlier model."""
    where = path_to("instance", instance) + "/model/rollback"
    _changed(instance, Client(socket).call("POST", where), json)
    return 0


def _changed(instance: str, answer: dict[str, Any], json: bool) -> None:
    if json:
        write(json_line(answer.pop("schema"), answer) + "\n")
        return
    result = answer["result"]
    before = str(result["before"])[:16] if result["before"] else "none"
    undo = f"; to undo: kmind model rollback {instance}" if result["before"] else ""
    write(f"{instance}: model {before} -> {str(result['hash'])[:16]}{undo}\n")


def _times(call: Callable[[], object]) -> list[int]:
    spent = []
    for _ in range(_BENCH_TURNS):
        began = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - began)
    return sorted(spent)
