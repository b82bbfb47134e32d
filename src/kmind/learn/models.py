# SPDX-License-Identifier: Apache-2.0
"""The families of models that a recipe may name, as scikit-learn has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kmind.errors import NotSupportedError
from kmind.extension.training import ModelName

__all__ = ["make_model"]


def make_model(name: ModelName, seed: int) -> Any:
    """A fresh estimator, small enough for a decision in the kernel."""
    try:
        from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.tree import DecisionTreeClassifier
    except ImportError:
        raise NotSupportedError(
            "training needs scikit-learn, which is not installed", hint="pip install 'kmind[learn]'"
        ) from None
    makers: dict[str, Callable[[], Any]] = {
        "tree": lambda: DecisionTreeClassifier(
            max_depth=6, min_samples_leaf=5, class_weight="balanced", random_state=seed
        ),
        "forest": lambda: RandomForestClassifier(
            30,
            max_depth=6,
            min_samples_leaf=5,
            class_weight="balanced",
            random_state=seed,
            n_jobs=1,
        ),
        "boosted": lambda: GradientBoostingClassifier(
            n_estimators=30, max_depth=3, min_samples_leaf=5, random_state=seed
        ),
        "logistic": lambda: make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)
        ),
        "mlp": lambda: make_pipeline(
            StandardScaler(),
            MLPClassifier((25, 15), max_iter=500, early_stopping=False, random_state=seed),
        ),
    }
    return makers[name]()
