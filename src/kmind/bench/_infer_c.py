# SPDX-License-Identifier: Apache-2.0
"""The same integer models in C, as a program in user space would have them.

Plain loops that the compiler knows the sizes of, compiled with -O2 and kept scalar; one
walk after the other through trees, a node a structure.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import NotSupportedError
from kmind.infer.integer import IntMlp, IntModel
from kmind.util.packages import install_hint

__all__ = ["CModel", "compiler"]

_FLAGS = ("-O2", "-fno-vectorize", "-fno-slp-vectorize", "-shared", "-fPIC")
_COMMON = """
#include <stdint.h>
#include <time.h>

static inline int32_t input(int feature, int64_t v)
{
	if (v < LO[feature]) v = LO[feature];
	if (v > HI[feature]) v = HI[feature];
	return ((v - OFFSET[feature]) * MUL[feature] + ROUND[feature]) >> SHIFT[feature];
}
"""
_RUN = """
int64_t run(const int64_t *x, int64_t *score, int vectors, int count)
{
	struct timespec from, to;

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0, at = 0; i < count; i++, at = at + 1 == vectors ? 0 : at + 1)
		decide(x + at * FEATURES, score + at * OUTPUTS);
	clock_gettime(CLOCK_MONOTONIC, &to);
	return (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec;
}
"""
_TREES = """
struct node { int32_t feature, threshold, left, right; };

static void decide(const int64_t *x, int64_t *score)
{
	int32_t q[FEATURES];

	for (int i = 0; i < FEATURES; i++)
		q[i] = input(i, x[i]);
	for (int i = 0; i < OUTPUTS; i++)
		score[i] = BASE[i];
	for (int tree = 0; tree < TREES; tree++) {
		const struct node *node = NODES + ROOT[tree];

		while (node->feature >= 0)
			node = NODES + (q[node->feature] > node->threshold ? node->right : node->left);
		score[OUTPUT_OF[tree]] += LEAF[node->left];
	}
}
"""
_LAYER = """
static inline void layer{number}(const int32_t *in, {out_type} *out)
{{
	for (int j = 0; j < {outputs}; j++) {{
		{sum_type} sum = BIAS{number}[j];

		for (int i = 0; i < {inputs}; i++)
			sum += WEIGHT{number}[j * {inputs} + i] * in[i];
{end}
	}}
}}
"""
_STEP = """		int64_t v = (sum * {mul}LL + {add}LL) >> {shift};
		if (v < {lo}) v = {lo};
		if (v > {hi}) v = {hi};
		out[j] = v;"""


def compiler() -> str:
    """Return the clang of this machine; NotSupportedError if there is none."""
    for name in ("clang", *(f"clang-{version}" for version in range(30, 13, -1))):
        if found := shutil.which(name):
            return found
    raise NotSupportedError(
        "there is no clang to compile the C that models are compared with",
        hint=install_hint("clang"),
    )


class CModel:
    """One model, compiled; width 1 trees, and networks without tables. A context manager."""

    def __init__(self, model: IntModel) -> None:
        self._model = model
        self._folder = tempfile.TemporaryDirectory(prefix="kmind-bench-")
        source = Path(self._folder.name, "model.c")
        source.write_text(_source(model))
        library = source.with_suffix(".so")
        subprocess.run([compiler(), *_FLAGS, str(source), "-o", str(library)], check=True)
        self._run = ctypes.CDLL(str(library)).run
        self._run.restype = ctypes.c_int64

    def __enter__(self) -> CModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()

    def time_ns(self, x: NDArray[np.int64], count: int) -> tuple[float, NDArray[np.int64]]:
        """Nanoseconds a decision takes, over ``count`` on the vectors ``x``; and their scores."""
        x = np.ascontiguousarray(x)
        scores = np.zeros((len(x), self._model.outputs), np.int64)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, scores))
        return int(self._run(*pointers, len(x), count)) / count, scores


def _source(model: IntModel) -> str:
    parts = [
        f"#define FEATURES {len(model.input)}\n#define OUTPUTS {model.outputs}",
        "#include <stdint.h>",
        *(
            _array("int64_t", name.upper(), getattr(model.input, name))
            for name in ("lo", "hi", "offset", "round", "mul", "shift")
        ),
        _COMMON,
    ]
    parts += _network(model) if isinstance(model, IntMlp) else _trees(model)
    return "\n".join([*parts, _RUN])


def _array(kind: str, name: str, values: NDArray[Any]) -> str:
    return f"static const {kind} {name}[] = {{{', '.join(map(str, values.ravel().tolist()))}}};"


def _trees(model: Any) -> list[str]:
    columns = zip(
        *(getattr(model, name).tolist() for name in ("feature", "threshold", "left", "right")),
        strict=True,
    )
    nodes = ", ".join(f"{{{a}, {b}, {c}, {d}}}" for a, b, c, d in columns)
    declared = _TREES.partition("static void")
    return [
        f"#define TREES {len(model.root)}",
        _array("int32_t", "ROOT", model.root),
        _array("int32_t", "OUTPUT_OF", model.output_of),
        _array("int32_t", "LEAF", model.leaf),
        _array("int64_t", "BASE", model.base),
        declared[0] + f"static const struct node NODES[] = {{{nodes}}};",
        declared[1] + declared[2],
    ]


def _network(model: IntMlp) -> list[str]:
    parts, calls = [], []
    for number, (layer, bound) in enumerate(zip(model.layers, model.bound, strict=True)):
        outputs, inputs = layer.weight.shape
        step = layer.step
        parts.append(_array("int16_t", f"WEIGHT{number}", layer.weight))
        parts.append(_array("int64_t", f"BIAS{number}", layer.bias))
        end = "\t\tout[j] = sum;"
        if step is not None:
            end = _STEP.format(mul=step.mul, add=step.add, shift=step.shift, lo=step.lo, hi=step.hi)
        parts.append(
            _LAYER.format(
                number=number,
                inputs=inputs,
                outputs=outputs,
                out_type="int64_t" if step is None else "int32_t",
                # What fits in 32 bits is summed there, as a programmer would.
                sum_type="int32_t" if bound < 1 << 31 else "int64_t",
                end=end,
            )
        )
        into = "score" if step is None else f"a{number + 1}"
        declared = "" if step is None else f"\tint32_t {into}[{outputs}];\n"
        calls.append(f"{declared}\tlayer{number}(a{number}, {into});")
    return [
        *parts,
        "static void decide(const int64_t *x, int64_t *score)\n{\n\tint32_t a0[FEATURES];\n",
        "\tfor (int i = 0; i < FEATURES; i++)\n\t\ta0[i] = input(i, x[i]);",
        *calls,
        "}",
    ]
