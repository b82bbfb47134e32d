# SPDX-License-Identifier: Apache-2.0
"""A pair of rings in the window: commands go out in batches, answers come back in runs."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.driver.nvme.layout import COMPLETION, SUBMISSION
from kmind.queue.order import fence

__all__ = ["QueuePair"]


class QueuePair:
    """Submission and completion ring of the same size, as arrays of entries.

    The caller sees to it that no more than ``len - 1`` commands are out.
    """

    def __init__(
        self,
        submission: npt.NDArray[np.void],
        completion: npt.NDArray[np.void],
        doorbells: tuple[ctypes.c_uint32, ctypes.c_uint32],
    ) -> None:
        assert submission.dtype == SUBMISSION
        assert completion.dtype == COMPLETION
        assert len(submission) == len(completion)
        self._out, self._back = submission, completion
        self._tell_out, self._tell_back = doorbells
        self._tail = self._head = 0
        self._phase = 1

    def __len__(self) -> int:
        return len(self._out)

    def submit(self, commands: npt.NDArray[np.void]) -> None:
        """Hand commands over, all with one write to the doorbell."""
        size = len(self._out)
        assert len(commands) < size
        first = min(len(commands), size - self._tail)
        self._out[self._tail : self._tail + first] = commands[:first]
        self._out[: len(commands) - first] = commands[first:]
        self._tail = (self._tail + len(commands)) % size
        fence()  # the controller reads the entries after the doorbell
        self._tell_out.value = self._tail

    def reap(self) -> npt.NDArray[Any]:
        """Take the answers that are there: copies, in their order."""
        runs = []
        while True:
            ahead = self._back[self._head :]
            done = (ahead["status"] & 1) == self._phase
            count = len(ahead) if done.all() else int(done.argmin())
            if not count:
                break
            fence()  # an entry is read after its phase
            runs.append(ahead[:count].copy())
            self._head += count
            if self._head < len(self._back):
                break
            self._head, self._phase = 0, 1 - self._phase
        if not runs:
            return self._back[:0].copy()
        self._tell_back.value = self._head
        return runs[0] if len(runs) == 1 else np.concatenate(runs)
