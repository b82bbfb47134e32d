# SPDX-License-Identifier: Apache-2.0
"""Libraries that only an import of a model needs."""

from __future__ import annotations

import importlib
from typing import Any

from kmind.errors import NotSupportedError

__all__ = ["need"]


def need(name: str, extra: str = "infer") -> Any:
    """Return the library, or say in one line which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotSupportedError(
            f"{name.partition('.')[0]} is not installed",
            hint=f"install it with: pip install 'kmind[{extra}]'",
        ) from None
