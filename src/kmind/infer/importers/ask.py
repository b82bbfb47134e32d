# SPDX-License-Identifier: Apache-2.0
"""The labels that a library itself gives, asked in a process of its own.

LightGBM, XGBoost and onnxruntime read files in C++, and a damaged one can end the process that
reads it. The child gets rows as a numpy file, and returns labels the same way.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError, NotSupportedError
from kmind.infer.lazy import need

__all__ = ["LIBRARIES", "ask_library", "labels_of"]

LIBRARIES = {"lightgbm": "LightGBM", "xgboost": "XGBoost", "onnxruntime": "onnxruntime"}
"""By the names of their packages."""

_MEMORY = 8 << 30
_SECONDS = 300
_MISSING = 3


def ask_library(package: str, path: str | Path, x: Any, rounds: int = 0) -> NDArray[np.int64]:
    """Return the labels that the library gives rows ``[n, F]`` by the model in a file.

    ``rounds``: how many of XGBoost's rounds count; 0 for all. Raises NotSupportedError where the
    library is not installed, ModelError where it does not take the file.
    """
    command = [sys.executable, "-m", __name__, package, str(Path(path).absolute()), str(rounds)]
    rows = io.BytesIO()
    np.save(rows, np.asarray(x), allow_pickle=False)
    try:
        child = subprocess.run(
            command, input=rows.getvalue(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{LIBRARIES[package]} does not finish with it") from None
    if child.returncode == _MISSING:
        raise NotSupportedError(f"{LIBRARIES[package]} is not installed")
    try:
        if child.returncode:
            raise ValueError
        labels = np.load(io.BytesIO(child.stdout), allow_pickle=False)
        if labels.shape != (len(x),) or labels.dtype != np.int64:
            raise ValueError
    except (ValueError, OSError, EOFError):
        words = child.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
        raise ModelError(
            f"{LIBRARIES[package]} cannot predict with it: {words[-1][:200]}"
        ) from None
    return np.asarray(labels)


def labels_of(package: str, path: str, x: Any, rounds: int = 0) -> NDArray[np.int64]:
    """Return the same in this process: for files that one has written oneself."""
    ask = {"lightgbm": _lightgbm, "xgboost": _xgboost, "onnxruntime": _onnxruntime}[package]
    return np.asarray(ask(path, np.asarray(x), rounds), np.int64)


def _lightgbm(path: str, x: Any, rounds: int) -> Any:
    # An array of int64 would be rounded to single precision by the wrapper; doubles are not.
    booster = need("lightgbm").Booster(model_file=path)
    said = booster.predict(np.asarray(x, np.float64), num_threads=1)
    # As LGBMClassifier.predict does it.
    return said.argmax(axis=1) if said.ndim > 1 else said > 1.0 - said


def _xgboost(path: str, x: Any, rounds: int) -> Any:
    library = need("xgboost")
    booster = library.Booster({"nthread": 1}, model_file=path)
    booster.feature_names = None
    booster.feature_types = None
    said = booster.predict(library.DMatrix(x), iteration_range=(0, rounds))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    if objective == "multi:softmax":
        return said
    # As XGBClassifier.predict does it.
    return said.argmax(axis=1) if said.ndim > 1 else said > 0.5


def _onnxruntime(path: str, x: Any, rounds: int) -> Any:
    library = need("onnxruntime")
    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    kinds = {"tensor(double)": np.float64, "tensor(int64)": np.int64}
    label = session.run(None, {given.name: x.astype(kinds.get(given.type, np.float32))})[0]
    return np.asarray(label).reshape(-1)


def _main(package: str, path: str, rounds: str) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    x = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    try:
        labels = labels_of(package, path, x, int(rounds))
    except NotSupportedError:
        return _MISSING
    except Exception as error:
        # Each library has errors of its own; one line of it is what the caller can show.
        sys.stderr.write("\n" + " ".join(str(error).split())[:300] + "\n")
        return 1
    said = io.BytesIO()  # numpy asks a file for its position, which a pipe does not have
    np.save(said, labels, allow_pickle=False)
    sys.stdout.buffer.write(said.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
