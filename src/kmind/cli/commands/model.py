# SPDX-License-Identifier: Apache-2.0
"""``kmind model``: model files, and the models of running instances."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON, SOCKET
from kmind.command import Argument, Command, Flag, Option, Words

__all__ = ["COMMAND"]

_GROUP = "Recordings and models"
_FILE = Argument("file", "a model file (see: kmind model import)", convert=Path)
_INSTANCE = Argument("instance", "an instance, such as iolat@vda (see: kmind list)")


def _import(words: Words) -> int:
    from kmind.cli.model import import_command

    return import_command(
        words["source"],
        words["output"],
        calibration=words["calibration"],
        label=words["label"],
        format=words["format"],
        classes=[name.strip() for name in words["classes"].split(",")] if words["classes"] else [],
        units=words["unit"],
        names=words["names"],
        limit=words["limit"],
        all_rounds=words["all_rounds"],
        exact=not words["rounded"],
        card=words["card"],
        force=words["force"],
        json=words["json"],
    )


def _check(words: Words) -> int:
    from kmind.cli.model import check_command

    return check_command(words["file"], budget_ns=words["budget_ns"], json=words["json"])


def _show(words: Words) -> int:
    from kmind.cli.model import show_command

    return show_command(words["file"], json=words["json"])


def _bench(words: Words) -> int:
    from kmind.cli.model import bench_command

    return bench_command(words["file"], json=words["json"])


def _deploy(words: Words) -> int:
    from kmind.cli.model import deploy_command

    return deploy_command(
        words["file"], words["instance"], json=words["json"], socket=words["socket"]
    )


def _rollback(words: Words) -> int:
    from kmind.cli.model import rollback_command

    return rollback_command(words["instance"], json=words["json"], socket=words["socket"])


_MEMBERS = (
    Command(
        "model import",
        _GROUP,
        "Convert a float model to an integer model, and report the loss.",
        _import,
        arguments=(
            Argument(
                "source",
                "ONNX, LightGBM's text, or XGBoost's JSON; detected automatically",
                convert=Path,
            ),
        ),
        options=(
            Option("output", "the model file to write", Path, short="-o", required=True),
            Option(
                "calibration",
                "CSV or Parquet: columns named as the features, rows in the order of time",
                Path,
                required=True,
            ),
            Option("label", "column with the true labels; the loss is measured on its last third"),
            Option(
                "format",
                "format of the source",
                default="auto",
                choices=("auto", "onnx", "lightgbm", "xgboost"),
            ),
            Option("classes", "names of the labels, separated by commas"),
            Option(
                "unit",
                "a feature's unit in the agent, as latency=ns or latency=ns*1e-6; repeatable",
                many=True,
            ),
            Option(
                "names",
                "the column of a model's feature, as 'queue_depth=queue depth'; repeatable",
                many=True,
                metavar="FEATURE=COLUMN",
            ),
            Option(
                "limit",
                "percentage points of accuracy that integers may cost; also the rows of 100 whose "
                "label may differ from the library's",
                convert=float,
                default=0.5,
            ),
            Flag("all-rounds", "take XGBoost's rounds after the best one, too"),
            Flag("rounded", "decide close calls of trees by rounded leaves: cheaper, less exact"),
            Option("card", "a JSON object to keep in the file as its card", Path),
            Flag("force", "replace the output"),
            JSON,
        ),
        examples=("kmind model import net.onnx -o net.kmodel --calibration io.csv --label slow",),
    ),
    Command(
        "model check",
        _GROUP,
        "Check that a model file is whole, decides as it did, and is within the budget.",
        _check,
        arguments=(_FILE,),
        options=(
            Option("budget-ns", "refuse the model if a decision may take longer", convert=float),
            JSON,
        ),
        examples=("kmind model check net.kmodel --budget-ns 2000",),
    ),
    Command(
        "model show",
        _GROUP,
        "Show a model's features, classes, loss, cost and card.",
        _show,
        arguments=(_FILE,),
        options=(JSON,),
        examples=("kmind model show net.kmodel",),
    ),
    Command(
        "model bench",
        _GROUP,
        "Time one model.",
        _bench,
        arguments=(_FILE,),
        options=(JSON,),
        examples=("kmind model bench net.kmodel",),
    ),
    Command(
        "model deploy",
        _GROUP,
        "Switch a running instance to a model; the one before is kept for rollback.",
        _deploy,
        arguments=(_FILE, _INSTANCE),
        options=(JSON, SOCKET),
        examples=("kmind model deploy net.kmodel iolat@vda",),
    ),
    Command(
        "model rollback",
        _GROUP,
        "Switch a running instance back to its earlier model.",
        _rollback,
        arguments=(_INSTANCE,),
        options=(JSON, SOCKET),
        examples=("kmind model rollback iolat@vda",),
    ),
)

COMMAND = Command(
    "model",
    _GROUP,
    "Make model files, inspect them, and give them to running instances.",
    examples=("kmind model import net.onnx -o net.kmodel --calibration io.csv --label slow",),
    commands=_MEMBERS,
)
