# SPDX-License-Identifier: Apache-2.0
"""A library asked for its labels in a process of its own."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from kmind.errors import ModelError, NotSupportedError
from kmind.infer.importers.ask import LIBRARIES, ask_library, labels_of

X = np.arange(200, dtype=np.int64).reshape(100, 2)
INSTALLED = [name for name in LIBRARIES if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def booster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lightgbm = pytest.importorskip("lightgbm")
    path = tmp_path_factory.mktemp("ask") / "model.txt"
    model = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=5, verbose=-1, n_jobs=1)
    model.fit(X, X[:, 0] > 90)
    model.booster_.save_model(path)
    return path


def test_child_gives_the_labels_of_the_library(booster: Path) -> None:
    there = ask_library("lightgbm", booster, X)
    assert there.dtype == np.int64
    assert np.array_equal(there, labels_of("lightgbm", str(booster), X))
    assert 0 < there.sum() < len(X)


@pytest.mark.parametrize("package", INSTALLED)
def test_damaged_file_is_one_line(tmp_path: Path, package: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"{}")
    with pytest.raises(ModelError, match=LIBRARIES[package]) as caught:
        ask_library(package, path, X)
    assert "\n" not in str(caught.value)


def test_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The child imports from a folder whose package cannot be imported.
    (tmp_path / "lightgbm.py").write_text("raise ImportError('none here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NotSupportedError, match="LightGBM is not installed"):
        ask_library("lightgbm", tmp_path / "model", X)
