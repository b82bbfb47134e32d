# SPDX-License-Identifier: Apache-2.0
"""Errors: their exit codes, and the line that a user sees."""

import pytest

from kmind import errors
from kmind.errors import KmindError, LoadError

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_each_is_caught_as_one_kind_and_has_an_exit_code(error: type[KmindError]) -> None:
    assert issubclass(error, KmindError)
    # 0 would say that all is well, and above 125 a shell means its own (bash(1), "EXIT STATUS").
    assert 0 < error.exit_code <= 125
    assert error.__doc__


def test_hint_follows_what_happened() -> None:
    assert str(KmindError("it is full", hint="free some room")) == "it is full; free some room"
    assert str(KmindError("it is full")) == "it is full"


def test_load_error_keeps_what_the_verifier_said() -> None:
    error = LoadError("refused", verifier_log="R1 is a scalar", source_line="a = *b;")
    assert (error.verifier_log, error.source_line) == ("R1 is a scalar", "a = *b;")
    assert str(error) == "refused"
