# SPDX-License-Identifier: Apache-2.0
"""Words of the form name=value."""

import pytest

from kmind.errors import UsageError
from kmind.util.words import plain_names, split_words


def test_text_is_all_that_follows_the_first_equals_sign() -> None:
    assert split_words(["a-b=c=d", "e="]) == {"a_b": "c=d", "e": ""}


def test_spellings_of_one_name_are_one() -> None:
    assert plain_names({"a-b": 1, "c": True}) == {"a_b": 1, "c": True}
    with pytest.raises(UsageError, match="a_b is given twice"):
        plain_names({"a-b": 1, "a_b": 1})
    with pytest.raises(UsageError, match="a_b is given twice"):
        split_words(["a-b=1", "a_b=1"])


def test_word_without_equals_sign() -> None:
    with pytest.raises(UsageError, match="'vdb' is not a parameter"):
        split_words(["vdb"])
