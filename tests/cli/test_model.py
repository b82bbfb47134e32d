# SPDX-License-Identifier: Apache-2.0
"""``kmind model`` on files: what it writes, shows, and refuses in one line."""

import json
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
from model_data import NAMES, features, labels

from kmind.cli.main import main
from kmind.infer.model_file import ModelFile

X = features()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A LightGBM model, and the table that it was trained on, whose labels are words."""
    frame = pd.DataFrame(X.astype(int), columns=NAMES)
    y = labels(X, 2)
    booster = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(frame, y)
    booster.booster_.save_model(tmp_path / "model.txt")
    frame.assign(slow=np.array(["no", "yes"])[y]).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def made(files: Path, *more: str) -> int:
    return main([
        "model", "import", str(files / "model.txt"), "-o", str(files / "out.kmodel"),
        "--calibration", str(files / "table.csv"), "--label", "slow", "--classes", "no,yes",
        "--unit", "latency=ns*1", *more,
    ])  # fmt: skip


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_import_to_check(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "card.json").write_text('{"data": "made up"}')
    assert made(files, "--card", str(files / "card.json"), "--json") == 0
    shown = last(capsys)
    assert shown["schema"] == "kmind.modelfile/1"
    assert shown["card"] == {"data": "made up"}
    assert shown["classes"] == ["no", "yes"]
    assert shown["features"][1] == {"name": "latency", "unit": "ns", "scale": 1.0}
    assert shown["quantisation"]["rows"] == len(X) - len(X) * 2 // 3
    file = str(files / "out.kmodel")
    assert shown["hash"] == ModelFile.load(file).hash
    assert main(["model", "show", file, "--json"]) == 0
    assert last(capsys) == shown
    assert main(["model", "check", file, "--budget-ns", "100000", "--json"]) == 0
    checked = last(capsys)
    assert (checked["selftest"], checked["hash"]) == ("passed", shown["hash"])
    for command in ("show", "check"):
        assert main(["model", command, file]) == 0
    assert "latency [ns]" in capsys.readouterr().out


@pytest.mark.kernel("libbpf", "btf")
def test_bench_times_the_kernel_beside_the_reference(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(files) == 0
    file = str(files / "out.kmodel")
    capsys.readouterr()
    assert main(["model", "bench", file, "--json"]) == 0
    timed = last(capsys)
    assert timed["bit_exact"] is True
    assert timed["reference_ns"] > 0
    assert timed["ns_spread"][0] <= timed["ns"] <= timed["ns_spread"][1]
    assert main(["model", "bench", file]) == 0
    assert capsys.readouterr().out.startswith("in the kernel: ")


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("kmind: ")
    assert said.err.count("\n") == 1
    return said.err


def test_what_is_refused_is_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(files) == 0
    capsys.readouterr()
    file = files / "out.kmodel"
    assert made(files) == 2
    assert "exists" in refused(capsys)
    assert main(["model", "check", str(file), "--budget-ns", "1"]) == 1
    assert "budget is 1 ns" in refused(capsys)
    for name in ("model.txt", "none", "."):
        assert main(["model", "show", str(files / name)]) == 1
        assert str(files / name) in refused(capsys)
    for more, why in (
        (("--classes", "a,b,c"), "3 classes are named"),
        (("--label", "none"), "lacks the column"),
        (("--unit", "none=ns"), "no such feature"),
        (("--unit", "bytes=b*x"), "is not a number"),
        (("--unit", "bytes=b*-1"), "not positive"),
        (("--card", str(files / "table.csv")), "not JSON"),
        (("--format", "onnx"), "not an ONNX model"),
        (("--format", "xgboost"), "not an XGBoost model"),
        (("--calibration", str(files / "model.txt")), "fields, not"),
        (("--calibration", str(files / "none")), "No such file"),
        (("--limit", "-100"), "the limit is -100"),
        (("--classes", "slow,fast"), "is not one of the model's classes"),
    ):
        assert made(files, "--force", *more) in (1, 2)
        assert why in refused(capsys)
    table = (files / "table.csv").read_text().replace("bytes", "other", 1)
    (files / "table.csv").write_text(table)
    assert made(files, "--force") == 1
    assert "lacks the column 'bytes'" in refused(capsys)
    assert ModelFile.load(file).classes == ("no", "yes")


def test_a_model_that_decides_otherwise_than_when_it_was_made_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(files) == 0
    capsys.readouterr()
    file = ModelFile.load(files / "out.kmodel")
    facts = dict(file.quantisation) | {"selftest": "0" * 64}
    ModelFile(file.model, file.features, file.classes, facts).save(files / "out.kmodel")
    assert main(["model", "check", str(files / "out.kmodel")]) == 1
    assert "differ from those when it was made" in refused(capsys)
    ModelFile(file.model, file.features, file.classes).save(files / "out.kmodel")
    assert main(["model", "check", str(files / "out.kmodel")]) == 0
    assert "not recorded" in capsys.readouterr().out


def test_a_file_cannot_steer_the_terminal(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(files) == 0
    file = ModelFile.load(files / "out.kmodel")
    card = {"\x1b]0;title\x07": "\x1b[2J"}
    ModelFile(file.model, file.features, file.classes, {}, card).save(files / "out.kmodel")
    capsys.readouterr()
    assert main(["model", "show", str(files / "out.kmodel")]) == 0
    assert "\x1b" not in capsys.readouterr().out
