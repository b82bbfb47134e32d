# SPDX-License-Identifier: Apache-2.0
"""``kmind bench`` on the command line: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kmind.cli._names import BENCHES

__all__ = ["bench"]


def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller and shorter, for a first look.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write JSON, with its schema.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where files to be read are kept.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="The disk, if it is not the one that holds --dir.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this load; repeatable.")] = None,
    adversary: Annotated[
        bool,
        typer.Option("--adversary", help="Of evidence: 200 hours of hostile extensions."),
    ] = False,
    agreement: Annotated[
        bool,
        typer.Option("--agreement", help="Of infer: random models beside their libraries."),
    ] = False,
    attack: Annotated[
        bool,
        typer.Option("--attack", help="Of admission: the owner's turns under attacks."),
    ] = False,
    real: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Of --adversary: so long on the real kernel instead."),
    ] = None,
) -> int:
    """Measure what the documentation claims."""
    from kmind.cli.bench import bench_command

    return bench_command(
        name,
        quick=quick,
        json=json,
        folder=folder,
        device=device,
        only=only or [],
        adversary=adversary,
        agreement=agreement,
        attack=attack,
        real=real,
    )
