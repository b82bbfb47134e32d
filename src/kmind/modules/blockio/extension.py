# SPDX-License-Identifier: Apache-2.0
"""The block I/O extension: shows what the disk does. The records are for `kmind record`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Context, Extension

__all__ = ["BlockIo"]


class BlockIo(Extension):
    """One disk's requests."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rates = dict.fromkeys(context.features, 0.0)  # a second, of the last window
        self._records = 0

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Keep the last one's rates."""
        last = windows[-1]
        seconds = max((int(last["end_ns"]) - int(last["start_ns"])) / 1e9, 1e-3)
        values = last["value"].tolist()
        self._rates = {name: values[at] / seconds for name, at in self.context.features.items()}

    def on_records(self, records: npt.NDArray[np.void]) -> None:
        """Count them."""
        self._records += len(records)

    def status(self) -> Mapping[str, Any]:
        """Requests a second, their bytes and mean times."""
        rates = self._rates
        shown: dict[str, Any] = {"records": self._records, "errors_per_s": round(rates["errors"])}
        for op in ("read", "write"):
            count = rates[f"{op}s"]
            shown[f"{op}s_per_s"] = round(count)
            shown[f"{op}_mb_per_s"] = round(rates[f"{op}_bytes"] / 1e6, 1)
            shown[f"{op}_us"] = round(rates[f"{op}_ns"] / count / 1e3, 1) if count else 0.0
        return shown
