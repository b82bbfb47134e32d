# SPDX-License-Identifier: Apache-2.0
"""From an exception to the answer that tells of it."""

from __future__ import annotations

from http import HTTPStatus

from kmind.errors import (
    JournalError,
    KmindError,
    NotSupportedError,
    PolicyError,
    PrivilegeError,
    UsageError,
)
from kmind.serve.schema import Problem

__all__ = ["HttpError", "NotFoundError", "problem"]


class HttpError(KmindError):
    """A request that is wrong as HTTP; ``headers`` go with the answer."""

    def __init__(
        self, status: int, message: str, *, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = headers or {}


class NotFoundError(UsageError):
    """There is nothing of that name."""


# The first that fits. As things stand, what is left could not be done: a conflict.
_STATUS: tuple[tuple[type[KmindError], int], ...] = (
    (NotFoundError, 404),
    (UsageError, 400),
    (PrivilegeError, 403),
    (PolicyError, 403),
    (NotSupportedError, 501),
    (JournalError, 503),
    (KmindError, 409),
)


def problem(error: Exception) -> Problem:
    """Return the error as told to the client; of an unexpected one its type and first line."""
    if isinstance(error, HttpError):
        status = error.status
    elif isinstance(error, KmindError):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
    else:
        status = 500
    if isinstance(error, KmindError):
        detail, hint, code = str(error.args[0]), error.hint, error.exit_code
    else:
        first = next(iter(str(error).splitlines()), "")
        detail = f"unexpected error: {type(error).__name__}: {first}"
        hint, code = "the daemon's log has more", 1
    return Problem(
        type=f"urn:kmind:{type(error).__name__}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=" ".join(detail.split()),
        hint=hint,
        exit_code=code,
    )
