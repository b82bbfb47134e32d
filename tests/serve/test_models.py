# SPDX-License-Identifier: Apache-2.0
"""``kmind model deploy`` and ``rollback`` against the API on its real socket."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from serve.memory import DISK

from kmind.cli.main import main
from kmind.infer.features import Feature
from kmind.infer.model_file import ModelFile
from kmind.testing.models import random_mlp

if TYPE_CHECKING:
    from serve.conftest import Served

NAME = f"readahead@{DISK}"


def saved(folder: Path, seed: int) -> ModelFile:
    model = random_mlp(np.random.default_rng(seed), (3, 8, 2))
    labels = ("no", "yes") if model.output.kind == "argmax" else ()
    file = ModelFile(model, tuple(Feature(name) for name in "abc"), labels)
    file.save(folder / f"{seed}.kmodel")
    return file


def test_deploy_and_roll_back(
    served: "Served", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": DISK})
    first, second = saved(tmp_path, 1), saved(tmp_path, 2)
    there = ["--socket", str(served.path)]
    assert main(["model", "deploy", str(tmp_path / "1.kmodel"), NAME, *there]) == 0
    assert capsys.readouterr().out == f"{NAME}: model none -> {first.hash[:16]}\n"
    assert main(["model", "deploy", str(tmp_path / "2.kmodel"), NAME, *there, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "kmind.change/1"
    assert answer["result"]["before"] == first.hash
    assert main(["model", "rollback", NAME, *there]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{NAME}: model {second.hash[:16]} -> {first.hash[:16]}")
    assert f"to undo: kmind model rollback {NAME}" in said


def test_what_cannot_be_done_is_one_line(
    served: "Served", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": DISK})
    saved(tmp_path, 1)
    file, there = str(tmp_path / "1.kmodel"), ["--socket", str(served.path)]
    for words, code, why in (
        (["deploy", file, "none@vda", *there], 2, "no instance"),
        (["deploy", str(tmp_path / "none"), NAME, *there], 1, "No such file"),
        (["rollback", NAME, *there], 1, "no earlier model"),
        (["deploy", file, NAME, "--socket", str(tmp_path / "none.sock")], 3, "daemon"),
    ):
        assert main(["model", *words]) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert why in said.err
        assert said.err.count("\n") == 1
