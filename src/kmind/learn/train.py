# SPDX-License-Identifier: Apache-2.0
"""Training: a module's recipe, models beside baselines, and one file that says how it went.

Which family of models is taken is decided by validation inside of the training data; what
is tested was not looked at before. All that is random comes from the seed: the same
recordings give the same file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import kmind
from kmind.errors import ModuleError, RecordingError, UsageError
from kmind.extension import Module, find_module
from kmind.extension.discovery.loader import load_class
from kmind.extension.training import Dataset, ModelName, Recipe, Recorded
from kmind.infer.features import Feature
from kmind.infer.floating import FloatModel
from kmind.infer.importers.sklearn import from_sklearn
from kmind.infer.model_file import ModelFile
from kmind.infer.quantiser.quantise import quantise
from kmind.infer.reference import evaluate
from kmind.learn.models import make_model
from kmind.learn.recording import OUTCOME, PHASES, Recording, decode_records, open_recordings
from kmind.learn.schema import KNOB_UNKNOWN
from kmind.learn.scores import Split, balanced_accuracy, blocks_of, folds, score, split

__all__ = ["load_recipe", "read_data", "train"]

_FOLDS = 4
_LIMIT_POINTS = 0.5

_Array = npt.NDArray[Any]
_Say = Callable[[_Array], _Array]


def load_recipe(module: Module) -> Recipe:
    """The module's recipe. Runs the module's code. Raises ModuleError if it has none."""
    part = module.manifest.train
    if part is None:
        raise ModuleError(
            f"module {module.manifest.name} cannot be trained: it has no [train]",
            hint="a [train] section of its module.toml names a recipe",
        )
    return load_class(
        module.package, str(module.folder), module.sources(), part.entry, Recipe, "train.entry"
    )()


def read_data(path: Path, module: Module) -> list[Recording]:
    """Return the training data of a module in a folder, or in its subfolders.

    Raises RecordingError if one does not fit the module, or there is none.
    """
    places = [path]
    if path.is_dir() and not any(entry.is_file() for entry in path.iterdir()):
        places = sorted(entry for entry in path.iterdir() if entry.is_dir())
    if not places:
        raise RecordingError(f"nothing was recorded in {path}")
    opened = [recording for place in places for recording in open_recordings(place)]
    part = module.manifest.train
    source = find_module(part.module).manifest if part and part.module else module.manifest
    name = source.name
    fitting = [recording for recording in opened if recording.meta.module == name]
    if not fitting:
        there = ", ".join(sorted({recording.meta.module for recording in opened}))
        raise RecordingError(f"{path} holds nothing of module {name}; it holds {there}")
    for each in fitting:
        if why := each.meta.refuses(source):
            raise RecordingError(f"{each.paths[0]} does not fit {name}: {why}")
    return fitting


def train(
    module: Module, recipe: Recipe, recordings: Sequence[Recording], *, seed: int = 0
) -> ModelFile:
    """Train a module's recipe on recordings; the model, with its card.

    Raises UsageError where the data do not suffice, ModelError where integers lose too much.
    """
    data = [_recorded(recording) for recording in recordings]
    try:
        dataset = recipe.dataset(data)
    except ValueError as error:
        raise UsageError(f"the recordings are insufficient: {error}") from None
    held_out = _held_out(recipe, dataset, data)
    parts = _split(recipe, dataset, held_out)
    x, y = dataset.x[parts.train], dataset.y[parts.train]
    validation = {
        name: _validate(name, dataset, parts, recipe.purge_s, seed) for name in recipe.models
    }
    best = max(recipe.models, key=lambda name: validation[name])
    estimator = make_model(best, seed).fit(x, y)
    features = [Feature(c.name, c.unit) for c in dataset.columns]
    test = parts.later | parts.unseen
    # The loss of integers is measured where the truth has all classes of the model.
    known = test & np.isin(dataset.y, np.unique(y))
    file = quantise(
        _named(from_sklearn(estimator), dataset.classes),
        x,
        (dataset.x[known], [dataset.classes[n] for n in dataset.y[known]]),
        features=features,
        limit=_LIMIT_POINTS,
        budget_ns=module.manifest.model.budget_ns if module.manifest.model else math.inf,
    )
    majority = int(np.bincount(y).argmax())
    logistic = make_model("logistic", seed).fit(x, y)
    model_classes = np.array([dataset.classes.index(name) for name in file.classes])

    def model(rows: _Array) -> _Array:
        return model_classes[evaluate(file.model, rows.astype(np.int64)).label]

    predicted: dict[str, _Say] = {
        "model": model,
        "float": lambda rows: np.asarray(estimator.predict(rows)),
        "majority": lambda rows: np.full(len(rows), majority),
        "rule": lambda rows: recipe.rule(rows, dataset.classes),
        "logistic": lambda rows: np.asarray(logistic.predict(rows)),
    }
    card = {
        "module": module.manifest.name,
        "module_version": module.manifest.version,
        "kmind": kmind.__version__,
        "seed": seed,
        "family": best,
        "validation_balanced_accuracy": {k: round(v, 4) for k, v in validation.items()},
        "data": [_described(recording) for recording in recordings],
        "features": [{"name": c.name, "unit": c.unit, "help": c.help} for c in dataset.columns],
        "classes": list(dataset.classes),
        "rows": {
            "train": int(parts.train.sum()),
            "later": int(parts.later.sum()),
            "unseen": int(parts.unseen.sum()),
        },
        "purge_s": recipe.purge_s,
        "block_s": recipe.block_s,
        "held_out": list(recipe.held_out[1]) if recipe.held_out else [],
        "scores": {
            name: _scores(dataset, rows, predicted, recipe, seed)
            for name, rows in (("later", parts.later), ("unseen", parts.unseen))
            if rows.any()
        },
        # Each by itself too: one that goes badly is not to be averaged away.
        "held_out_scores": {
            name: _scores(dataset, rows, predicted, recipe, seed)
            for name, rows in held_out.items()
            if rows.any()
        },
        "notes": dict(dataset.notes),
        "limits": list(recipe.limits),
    }
    return ModelFile(file.model, file.features, file.classes, file.quantisation, card)


def _recorded(recording: Recording) -> Recorded:
    meta = recording.meta
    parts = list(recording.windows())
    if not parts:
        raise RecordingError(f"{recording.paths[0]} has no windows", hint="record for longer")
    knobs = np.concatenate([values for _, _, values in parts])
    outcome = recording.outcome()
    fields: dict[str, dict[str, list[_Array]]] = {}
    for _, rows in recording.records():
        for kind, columns in decode_records(meta, rows).items():
            for name, column in columns.items():
                fields.setdefault(kind, {}).setdefault(name, []).append(column)
    return Recorded(
        instance=meta.instance,
        windows=np.concatenate([rows for _, rows, _ in parts]),
        features=meta.columns,
        knobs={name: knobs[:, n] for n, name in enumerate(meta.knobs)},
        known={name: knobs[:, n] != KNOB_UNKNOWN for n, name in enumerate(meta.knobs)},
        records={
            kind: {name: np.concatenate(column) for name, column in columns.items()}
            for kind, columns in fields.items()
        },
        tags=meta.tags,
        sweep=meta.sweep,
        outcome=None if outcome is None else outcome / np.array([1e9, 1e9, 1.0]),
        phases=tuple((begin / 1e9, end / 1e9, name) for begin, end, name in recording.phases()),
    )


def _split(recipe: Recipe, dataset: Dataset, held_out: Mapping[str, _Array]) -> Split:
    held = np.zeros(len(dataset.y), bool)
    for rows in held_out.values():
        held |= rows
    parts = split(dataset.group, dataset.time_s, held, recipe.test_share, recipe.purge_s)
    if not parts.train.any():
        raise UsageError("nothing is left to train on", hint="record loads that are not held out")
    if not parts.later.any():
        raise UsageError("nothing is left to test on", hint="record for longer")
    if len(np.unique(dataset.y[parts.train])) < 2:
        name = dataset.classes[int(dataset.y[parts.train][0])]
        raise UsageError(
            f"all training data are of one class, {name}: there is nothing to learn",
            hint="record different loads",
        )
    return parts


def _held_out(recipe: Recipe, dataset: Dataset, data: Sequence[Recorded]) -> dict[str, _Array]:
    # The rows of each value that is held out, as a mask.
    tag, values = recipe.held_out or ("", ())
    splits = {}
    for value in values:
        numbers = [n for n, part in enumerate(data) if part.tags.get(tag) == value]
        splits[value] = np.isin(dataset.group, numbers)
    return splits


def _validate(name: ModelName, dataset: Dataset, parts: Split, purge_s: float, seed: int) -> float:
    rows = parts.train
    x, y = dataset.x[rows], dataset.y[rows]
    scores = []
    for fit, check in folds(dataset.group[rows], dataset.time_s[rows], _FOLDS, purge_s):
        if len(np.unique(y[fit])) < 2:
            continue
        predicted = make_model(name, seed).fit(x[fit], y[fit]).predict(x[check])
        scores.append(balanced_accuracy(y[check], predicted))
    return float(np.mean(scores)) if scores else 0.0


def _scores(
    dataset: Dataset, rows: _Array, predicted: dict[str, _Say], recipe: Recipe, seed: int
) -> dict[str, Any]:
    blocks = blocks_of(dataset.group[rows], dataset.time_s[rows], recipe.block_s)
    payoff = None if dataset.payoff is None else dataset.payoff[rows]
    return {
        name: score(dataset.y[rows], np.asarray(say(dataset.x[rows])), payoff, blocks, seed)
        for name, say in predicted.items()
    }


def _named(model: FloatModel, classes: Sequence[str]) -> FloatModel:
    # Models are fitted on class numbers; the file has the names.
    names = tuple(classes[int(number)] for number in model.target.classes)
    return replace(model, target=replace(model.target, classes=names))


def _described(recording: Recording) -> dict[str, Any]:
    meta = recording.meta
    digest = hashlib.sha256()
    beside = [recording.paths[0].with_name(name) for name in (OUTCOME, PHASES)]
    for path in [*recording.paths, *beside]:
        if not path.exists():
            continue
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "instance": meta.instance,
        "tags": meta.tags,
        "kernel": meta.host.kernel,
        "recorded": round(meta.clock.realtime_ns / 1e9),
        "sha256": digest.hexdigest(),
    }
