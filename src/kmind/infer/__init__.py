# SPDX-License-Identifier: Apache-2.0
"""From a float model to an integer one that an agent evaluates in the kernel.

Import a model with ``from_sklearn``, ``from_lightgbm``, ``from_xgboost`` or ``from_onnx``; make
it an integer model, in a file, with ``quantise``. Libraries that only an import needs are loaded
when it is called.
"""

from kmind.infer.features import Feature
from kmind.infer.importers.boosters import from_lightgbm, from_xgboost
from kmind.infer.importers.onnx import from_onnx
from kmind.infer.importers.sklearn import from_sklearn
from kmind.infer.model_file import ModelFile
from kmind.infer.quantiser.quantise import quantise
from kmind.infer.reference import Decisions, evaluate

__all__ = [
    "Decisions",
    "Feature",
    "ModelFile",
    "evaluate",
    "from_lightgbm",
    "from_onnx",
    "from_sklearn",
    "from_xgboost",
    "quantise",
]
