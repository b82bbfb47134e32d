# SPDX-License-Identifier: Apache-2.0
"""Files, folders and SQLite as a root process has to handle them; no domain knowledge."""

__all__: list[str] = []
