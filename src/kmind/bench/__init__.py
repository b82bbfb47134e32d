# SPDX-License-Identifier: Apache-2.0
"""What the numbers in the docs come from: one module a bench, run by ``kmind bench``."""

from kmind.bench._results import (
    Metric,
    Share,
    describe_machine,
    interleaved,
    over_rounds,
    show_result,
)

__all__ = ["Metric", "Share", "describe_machine", "interleaved", "over_rounds", "show_result"]
