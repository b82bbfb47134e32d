# SPDX-License-Identifier: Apache-2.0
"""Proposals of readahead's agent: the recipe's features, the deployed model's class."""

import ctypes
import mmap
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.disks import agent_of
from modules.native import compile_c
from modules.readahead_model import FEATURES, made_model, random_windows

from kmind.agent.kernel.agent import BpfAgent
from kmind.errors import ModelError
from kmind.extension import find_module
from kmind.infer import evaluate
from kmind.modules.readahead.recipe import COLUMNS, columns_of
from kmind.queue import Doorbell, Endpoint
from kmind.workloads.host import device_of

MODULE = find_module("readahead")
INPUTS = Path(MODULE.folder, "inputs.h")
MIB = 1 << 20


def test_the_recipe_and_the_manifest_name_the_same_features() -> None:
    assert MODULE.manifest.model is not None
    there = [(feature.name, feature.unit) for feature in MODULE.manifest.model.features]
    assert there == [(column.name, column.unit) for column in COLUMNS]


@pytest.mark.parametrize("seed", range(4))
def test_the_agents_features_are_the_recipes(tmp_path: Path, seed: int) -> None:
    names = ", ".join(f"RA_{name.upper()}" for name in FEATURES)
    native = compile_c(
        f"""
        enum readahead_feature {{ {names} }};
        #include "{INPUTS}"
        void inputs(const __u64 *window, int count, const __u64 *kb, __s64 *x)
        {{
            for (int i = 0; i < count; i++)
                ra_inputs(window + i * {len(FEATURES)}, kb[i], x + i * RA_INPUTS);
        }}
        """,
        tmp_path,
    )
    windows = random_windows(5000, seed)
    windows[0] = 0
    kb = np.random.default_rng(seed).integers(0, 1 << 15, len(windows))
    x = np.zeros((len(windows), len(COLUMNS)), np.int64)
    given = [each.ctypes.data_as(ctypes.c_void_p) for each in (windows, kb, x)]
    native.inputs(given[0], len(windows), given[1], given[2])
    assert np.array_equal(x, columns_of(windows, FEATURES, kb))
    assert len(np.unique(x, axis=0)) > 4000


def read_at_random(path: Path, seconds: float) -> None:
    """Through a mapping, and in order by read, from the disk each time."""
    choose = random.Random(1)
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapped:
                for _ in range(100):
                    mapped[choose.randrange(size)]
            os.pread(fd, MIB, choose.randrange(size // MIB) * MIB)
    finally:
        os.close(fd)


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")
@pytest.mark.parametrize("family", ["boosted", "logistic"])
def test_what_the_kernel_proposes_is_what_the_reference_says(tmp_path: Path, family: str) -> None:
    """Of real windows, each with the class of the model that decided then."""
    file = tmp_path / "read"
    file.write_bytes(os.urandom(32 * MIB))
    os.sync()
    model = made_model(family)
    with agent_of("readahead", f"/dev/{device_of(tmp_path)}", "model=true") as agent:
        read_at_random(file, 0.5)
        before = taken(agent)
        assert (before["proposal"] == 0).all()
        agent.models.deploy(model.slot())
        read_at_random(file, 2.0)
        rows = taken(agent)
    rows = {name: column[1:] for name, column in rows.items()}  # the first began without a model
    windows = np.column_stack([rows[name] for name in FEATURES]).astype(np.int64)
    said = evaluate(model.model, columns_of(windows, FEATURES, windows[:, FEATURES[KB]])).label
    assert len(windows) >= 10
    assert (windows[:, FEATURES[KB]] > 0).all()
    assert np.array_equal(rows["proposal"], said + 1)


KB = "read_ahead_kb"


def taken(agent: BpfAgent) -> dict[str, Any]:
    """The windows that closed until now, by feature."""
    ring = Endpoint(agent.arena, Doorbell(agent.doorbell_fd)).windows
    values = np.array(ring.peek()["value"])
    ring.release(len(values))
    return {name: values[:, column] for name, column in FEATURES.items()}


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")
def test_without_the_parameter_no_model_is_taken(tmp_path: Path) -> None:
    with (
        agent_of("readahead", f"/dev/{device_of(tmp_path)}") as agent,
        pytest.raises(ModelError, match="loaded without model decisions"),
    ):
        agent.models.deploy(made_model("tree").slot())
