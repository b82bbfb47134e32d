# SPDX-License-Identifier: Apache-2.0
"""Benchmarks behind the numbers in the docs: one module per bench, run by ``kmind bench``."""

from kmind.bench._results import (
    Metric,
    Share,
    describe_machine,
    interleaved,
    over_rounds,
    show_result,
)

__all__ = ["Metric", "Share", "describe_machine", "interleaved", "over_rounds", "show_result"]
