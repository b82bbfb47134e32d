# SPDX-License-Identifier: Apache-2.0
"""The border to text that somebody else wrote: whatever a parser raises there, one error leaves.

Libraries name a few of their errors. A hostile text finds others: RecursionError for brackets in
brackets, ValueError for a number of 5,000 digits, OverflowError, MemoryError. A reader that
catches only those that are documented lets the others end its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kmind.errors import KmindError
from kmind.util.text import clean

__all__ = ["foreign", "one_line"]

_MOST = 200


@contextmanager
def foreign(wrong: Callable[[str], KmindError]) -> Iterator[None]:
    """Let nothing but KmindError out of the block: ``wrong`` makes one, from the reason.

    The reason is one printable line. KmindErrors pass as they are.
    """
    try:
        yield
    except KmindError:
        raise
    except RecursionError:
        raise wrong("nested too deep") from None
    except MemoryError:
        raise wrong("it takes too much memory") from None
    except OSError as error:
        raise wrong(error.strerror or one_line(error)) from None
    except Exception as error:
        raise wrong(one_line(error) or type(error).__name__) from None


def one_line(what: object, most: int = _MOST) -> str:
    """The first line of what it says, printable, in at most that many characters."""
    first = next(iter(str(what).strip().splitlines()), "")
    return clean(first, most)
