# SPDX-License-Identifier: Apache-2.0
"""Names that the help shows: apart from what they name, so that help needs none of it."""

from enum import StrEnum

__all__ = ["BENCHES", "AdviceAction", "KnobsAction"]

BENCHES = ("queue", "readahead", "admission", "evidence", "replay", "infer", "iolat", "autotune")
"""Names of the benches; each is ``run_NAME_bench`` in ``kmind.bench.NAME``."""


class AdviceAction(StrEnum):
    """What can be done with advice."""

    list = "list"
    show = "show"
    apply = "apply"
    reject = "reject"
    undo = "undo"


class KnobsAction(StrEnum):
    """What can be done with knobs."""

    show = "show"
    set = "set"
    verify = "verify"
