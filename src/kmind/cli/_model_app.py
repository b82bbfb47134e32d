# SPDX-License-Identifier: Apache-2.0
"""The sub-commands of ``kmind model`` and their options."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["model_app"]

model_app = typer.Typer(
    help="Make model files, look at them, and give them to running instances.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Json = Annotated[bool, typer.Option("--json", help="Write JSON, with its schema.")]
_Name = Annotated[str, typer.Argument(help="An instance, such as iolat@vda (see: kmind list).")]
_Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket", readable=False, help="The daemon's socket, if not /run/kmind/api.sock."
    ),
]
_File = Annotated[Path, typer.Argument(help="A model file (see: kmind model import).")]


class _Format(StrEnum):
    auto = "auto"
    onnx = "onnx"
    lightgbm = "lightgbm"
    xgboost = "xgboost"


@model_app.command(
    "import",
    epilog="Example: kmind model import net.onnx -o net.kmodel --calibration io.csv --label slow",
)
def _import(
    source: Annotated[
        Path, typer.Argument(help="ONNX, LightGBM's text, or XGBoost's JSON; told apart by itself.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write.")],
    calibration: Annotated[
        Path,
        typer.Option(help="CSV or Parquet: columns named as the features, in the order of time."),
    ],
    label: Annotated[
        str | None,
        typer.Option(help="The column with the truth: the last third measures what is lost."),
    ] = None,
    format: Annotated[_Format, typer.Option(help="What the source is.")] = _Format.auto,
    classes: Annotated[
        str | None, typer.Option(help="Names of the labels, with commas between.")
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="A feature's unit in the agent, as latency=ns or latency=ns*1e-6."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(help="The column of a model's feature, as 'queue_depth=queue depth'."),
    ] = None,
    limit: Annotated[
        float,
        typer.Option(help="Points that integers may cost; rows of 100 the library may deny."),
    ] = 0.5,
    all_rounds: Annotated[
        bool, typer.Option("--all-rounds", help="Take XGBoost's rounds after the best one, too.")
    ] = False,
    rounded: Annotated[
        bool,
        typer.Option("--rounded", help="Decide close calls of trees by rounded leaves: cheaper."),
    ] = False,
    card: Annotated[
        Path | None, typer.Option(help="A JSON object to keep in the file as its card.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    json: _Json = False,
) -> int:
    """Make an integer model of a float one, and say what that costs."""
    from kmind.cli.model import import_command

    return import_command(
        source,
        output,
        calibration=calibration,
        label=label,
        format=format.value,
        classes=[name.strip() for name in classes.split(",")] if classes else [],
        units=unit or [],
        names=names or [],
        limit=limit,
        all_rounds=all_rounds,
        exact=not rounded,
        card=card,
        force=force,
        json=json,
    )


@model_app.command("check", epilog="Example: kmind model check net.kmodel --budget-ns 2000")
def _check(
    file: _File,
    budget_ns: Annotated[
        float | None, typer.Option(help="Refuse it if a decision may take longer.")
    ] = None,
    json: _Json = False,
) -> int:
    """Check that a model file is whole, decides as it did, and is within the budget."""
    from kmind.cli.model import check_command

    return check_command(file, budget_ns=budget_ns, json=json)


@model_app.command("show")
def _show(file: _File, json: _Json = False) -> int:
    """Show a model's features, classes, loss, cost and card."""
    from kmind.cli.model import show_command

    return show_command(file, json=json)


@model_app.command("bench")
def _bench(file: _File, json: _Json = False) -> int:
    """Time one model."""
    from kmind.cli.model import bench_command

    return bench_command(file, json=json)


@model_app.command("deploy", epilog="Example: kmind model deploy net.kmodel iolat@vda")
def _deploy(file: _File, instance: _Name, json: _Json = False, socket: _Socket = None) -> int:
    """Have a running instance decide by a model; the one before stays, for rollback."""
    from kmind.cli.model import deploy_command

    return deploy_command(file, instance, json=json, socket=socket)


@model_app.command("rollback")
def _rollback(instance: _Name, json: _Json = False, socket: _Socket = None) -> int:
    """Have a running instance decide by its earlier model again."""
    from kmind.cli.model import rollback_command

    return rollback_command(instance, json=json, socket=socket)
