# SPDX-License-Identifier: Apache-2.0
"""Words of the form ``name=value``, as command lines and modules.d have them."""

from __future__ import annotations

from collections.abc import Iterable

from kmind.errors import UsageError

__all__ = ["split_word", "split_words"]


def split_word(word: str) -> tuple[str, str]:
    """Return name, with ``_`` for ``-``, and text. Raises UsageError if the word has no ``=``."""
    name, equals, text = word.partition("=")
    if not equals:
        raise UsageError(f"{word!r} is not a parameter", hint="parameters are name=value")
    return name.replace("-", "_"), text


def split_words(words: Iterable[str]) -> dict[str, str]:
    """Return the texts by name. Raises UsageError as ``split_word``, and for a name twice."""
    given: dict[str, str] = {}
    for word in words:
        name, text = split_word(word)
        if name in given:
            raise UsageError(f"parameter {name} is given twice", hint="give it once")
        given[name] = text
    return given
