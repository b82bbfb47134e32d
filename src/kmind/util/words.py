# SPDX-License-Identifier: Apache-2.0
"""Words of the form ``name=value``, as command lines and modules.d have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from kmind.errors import UsageError

__all__ = ["plain_names", "split_word", "split_words"]

_T = TypeVar("_T")


def split_word(word: str) -> tuple[str, str]:
    """Return name, with ``_`` for ``-``, and text. Raises UsageError if the word has no ``=``."""
    name, equals, text = word.partition("=")
    if not equals:
        raise UsageError(f"{word!r} is not a parameter", hint="parameters are name=value")
    return name.replace("-", "_"), text


def split_words(words: Iterable[str]) -> dict[str, str]:
    """Return the texts by name. Raises UsageError as ``split_word``, and for a name twice."""
    return _by_name(map(split_word, words))


def plain_names(given: Mapping[str, _T]) -> dict[str, _T]:
    """Return what was given, with ``_`` for ``-`` in names. Raises UsageError for a name twice."""
    return _by_name((name.replace("-", "_"), value) for name, value in given.items())


def _by_name(pairs: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    given: dict[str, _T] = {}
    for name, value in pairs:
        if name in given:
            raise UsageError(f"parameter {name} is given twice", hint="give it once")
        given[name] = value
    return given
