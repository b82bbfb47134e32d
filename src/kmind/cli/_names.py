# SPDX-License-Identifier: Apache-2.0
"""Names that the help shows: apart from what they name, so that help needs none of it."""

__all__ = ["BENCHES"]

BENCHES = ("queue", "readahead", "admission", "evidence", "replay", "autotune")
"""Names of the benches; each is ``run_NAME_bench`` in ``kmind.bench.NAME``."""
