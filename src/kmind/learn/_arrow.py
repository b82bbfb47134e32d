# SPDX-License-Identifier: Apache-2.0
"""pyarrow, which is an extra: imported here only, and missed in one line."""

from __future__ import annotations

from typing import Any

from kmind.errors import NotSupportedError

__all__ = ["ipc", "pa", "parquet"]

try:
    import pyarrow as _pa
    import pyarrow.ipc as _ipc
    import pyarrow.parquet as _parquet
except ImportError:
    raise NotSupportedError(
        "recordings need pyarrow, which is not installed", hint="pip install 'kmind[learn]'"
    ) from None

# It has no types of its own.
pa: Any = _pa
ipc: Any = _ipc
parquet: Any = _parquet
