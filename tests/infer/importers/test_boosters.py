# SPDX-License-Identifier: Apache-2.0
"""Files of LightGBM and XGBoost, through treelite: the import must agree with the library."""

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from model_data import NAMES, features, labels, values

from kmind.errors import ModelError
from kmind.infer import from_lightgbm, from_xgboost, quantise

X = features()
FRAME = pd.DataFrame(X, columns=NAMES)
SMALL: dict[str, Any] = {"n_estimators": 8, "n_jobs": 1}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "extra",
    [{}, {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}],
    ids=["gbdt", "rf"],
)
def test_lightgbm_classifiers(tmp_path: Path, classes: int, extra: dict[str, Any]) -> None:
    y = labels(X, classes)
    theirs = lightgbm.LGBMClassifier(verbose=-1, **SMALL, **extra).fit(FRAME[:900], y[:900])
    path = tmp_path / "model.txt"
    theirs.booster_.save_model(path)
    model = from_lightgbm(path)
    assert model.names == NAMES
    assert np.array_equal(model.target.labels(model.scores(X)), theirs.predict(FRAME))
    assert quantise(model, X[:900], (X[900:], y[900:])).quantisation["lost_points"] <= 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_classifiers(tmp_path: Path, classes: int) -> None:
    y = labels(X, classes)
    theirs = xgboost.XGBClassifier(max_depth=4, **SMALL).fit(FRAME[:900], y[:900])
    path = tmp_path / "model.json"
    theirs.save_model(path)
    model = from_xgboost(path)
    assert model.names == NAMES
    assert np.array_equal(model.target.labels(model.scores(X)), theirs.predict(FRAME))
    margin = theirs.predict(FRAME, output_margin=True).reshape(len(X), -1)
    assert np.allclose(model.scores(X), margin, atol=1e-4)
    assert quantise(model, X[:900], (X[900:], y[900:])).quantisation["lost_points"] <= 0.5


def test_regressors(tmp_path: Path) -> None:
    y = values(X)
    light = lightgbm.LGBMRegressor(verbose=-1, **SMALL).fit(X, y)
    light.booster_.save_model(tmp_path / "a.txt")
    assert np.allclose(from_lightgbm(tmp_path / "a.txt").scores(X)[:, 0], light.predict(X))
    other = xgboost.XGBRegressor(**SMALL).fit(X, y)
    other.save_model(tmp_path / "a.json")
    ours = from_xgboost(tmp_path / "a.json").scores(X)[:, 0]
    assert np.allclose(ours, other.predict(X), atol=1e-4)


def saved(path: Path, booster: Any) -> Path:
    (booster.booster_ if hasattr(booster, "booster_") else booster).save_model(path)
    return path


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    y = labels(X, 2)
    light = lightgbm.LGBMClassifier(verbose=-1, **SMALL)
    categorical = light.fit(X, y, categorical_feature=[0])
    with pytest.raises(ModelError, match="categorical"):
        from_lightgbm(saved(tmp_path / "c.txt", categorical))
    zero = lightgbm.LGBMClassifier(verbose=-1, zero_as_missing=True, **SMALL).fit(X, y)
    with pytest.raises(ModelError, match="zero_as_missing"):
        from_lightgbm(saved(tmp_path / "z.txt", zero))
    linear = lightgbm.LGBMRegressor(verbose=-1, linear_tree=True, **SMALL).fit(X, y)
    with pytest.raises(ModelError, match="linear_tree"):
        from_lightgbm(saved(tmp_path / "l.txt", linear))
    poisson = lightgbm.LGBMRegressor(verbose=-1, objective="poisson", **SMALL).fit(X, y)
    with pytest.raises(ModelError, match="exponential"):
        from_lightgbm(saved(tmp_path / "p.txt", poisson))
    plain = saved(tmp_path / "g.json", xgboost.XGBClassifier(**SMALL).fit(X, y))
    model = json.loads(plain.read_text())
    booster = model["learner"]["gradient_booster"]
    dart = {"name": "dart", "gbtree": booster, "weight_drop": [0.5]}  # until XGBoost 3.3
    model["learner"]["gradient_booster"] = dart
    (tmp_path / "d.json").write_text(json.dumps(model))
    with pytest.raises(ModelError, match="booster dart"):
        from_xgboost(tmp_path / "d.json")


@pytest.mark.filterwarnings("ignore:.*booster=dart. is deprecated")
def test_dropout_is_refused_or_decides_as_xgboost_does(tmp_path: Path) -> None:
    """From 3.4 on XGBoost puts the trees' weights into their leaves, and calls them gbtree."""
    booster = xgboost.XGBClassifier(booster="dart", rate_drop=0.5, **SMALL).fit(X, labels(X, 2))
    path = saved(tmp_path / "d.json", booster)
    if '"name":"dart"' in path.read_text():
        with pytest.raises(ModelError, match="booster dart"):
            from_xgboost(path)
    else:
        margin = booster.predict(X, output_margin=True)
        assert np.allclose(from_xgboost(path).scores(X)[:, 0], margin, atol=1e-4)


@pytest.mark.parametrize(
    "content", [b"", b"tree\n", b"{", b'{"learner": 3}', b"\xff" * 40, b"[" * 100_000]
)
def test_rubbish_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (from_lightgbm, from_xgboost):
        with pytest.raises(ModelError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ModelError, match="No such file"):
            read(tmp_path / "none")


@pytest.mark.parametrize(
    ("good", "bad"),
    [("left_child=", "left_child=99999 "), ("decision_type=", "decision_type=1 ")],
)
def test_a_file_that_crashes_treelite_does_not_crash_kmind(
    tmp_path: Path, good: str, bad: str
) -> None:
    path = tmp_path / "model.txt"
    theirs = lightgbm.LGBMClassifier(verbose=-1, **SMALL).fit(X, labels(X, 2))
    theirs.booster_.save_model(path)
    path.write_text(path.read_text().replace(good, bad, 1))
    with pytest.raises(ModelError, match="treelite"):
        from_lightgbm(path)


def test_a_booster_of_any_name_is_refused_in_one_line(tmp_path: Path) -> None:
    name = "9" * 5000 + "\x1b[2J"
    file = {"learner": {"feature_names": ["a"], "gradient_booster": {"name": name}}}
    path = tmp_path / "model.json"
    path.write_text(json.dumps(file))
    with pytest.raises(ModelError, match=r"the booster 9+… is not supported; gbtree is") as told:
        from_xgboost(path)
    assert len(str(told.value)) < 100 + len(str(path))
