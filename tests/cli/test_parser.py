# SPDX-License-Identifier: Apache-2.0
"""From the words of a command line to values, or to one line of error."""

from pathlib import Path

import pytest

from kmind.cli.parser import parse
from kmind.command import Words
from kmind.errors import UsageError


def parsed(line: str) -> Words:
    found = parse(line.split())
    assert isinstance(found, tuple), found
    command, words = found
    assert line.startswith(command.name)
    return words


def test_options_may_stand_anywhere() -> None:
    words = parsed("run --mode auto readahead vda a=1 --duration=2.5 b=2 --json")
    assert words == {
        "module": "readahead", "words": ["vda", "a=1", "b=2"], "mode": "auto",
        "duration": 2.5, "policy": None, "json": True,
    }  # fmt: skip


def test_words_that_are_omitted_have_their_defaults() -> None:
    words = parsed("record readahead@vda -o trace")
    assert words["modules"] == ["readahead@vda"]
    assert words["output"] == Path("trace")
    assert (words["max_mib"], words["sweep_s"], words["seed"]) == (1024, 2.0, 0)
    assert words["tag"] == []
    assert parsed("advice")["action"] == "list"
    assert parsed("advice apply 7")["id"] == "7"


def test_an_option_that_repeats_is_a_list() -> None:
    assert parsed("record a --tag x=1 --tag y=2 -o t")["tag"] == ["x=1", "y=2"]


def test_a_flag_that_can_be_negated() -> None:
    assert parsed("daemon")["devices"] is True
    assert parsed("daemon --no-devices")["devices"] is False


def test_members_of_a_family_have_their_own_options() -> None:
    assert parsed("model check net.kmodel --budget-ns 2000")["budget_ns"] == 2000.0
    assert parsed("bench evidence --adversary --real 60")["real"] == 60.0


@pytest.mark.parametrize(
    "line", ["run --help", "run readahead -h", "model --help", "model check -h"]
)
def test_help_wins_over_what_is_missing(line: str) -> None:
    text = parse(line.split())
    assert isinstance(text, str)
    assert text.startswith(f"usage: kmind {line.split(' -')[0].removesuffix(' readahead')} ")


def test_words_after_dashes_are_no_options() -> None:
    with pytest.raises(UsageError):
        parse(["inspect", "--", "--help", "more"])
    assert parsed("inspect -- --help")["path"] == Path("--help")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stats", "there is no command 'stats'; did you mean status? See: kmind --help"),
        ("__init__", "there is no command '__init__'"),
        ("../main", "there is no command '../main'"),
        ("bench", "kmind bench needs a command; choose from admission, autotune, driver"),
        ("model chek", "there is no command 'model chek'; did you mean model check?"),
        ("restore --forse", "there is no option '--forse'; did you mean --force?"),
        ("bench queue --device vda", "there is no option '--device'"),
        ("run", "arguments are required: MODULE; for example: kmind run readahead vda;"),
        ("run readahead vda --mode emergency", "invalid choice: 'emergency'"),
        ("run readahead vda --duration nan", "nan is below 0.1"),
        ("run readahead vda --duration x", "'x' is not a number"),
        ("record a -o b --max-mib 1.5", "'1.5' is not a whole number"),
        ("record a -o b --seed -1", "-1 is below 0"),
        ("record a", "arguments are required: -o/--output"),
        ("inspect one two", "unrecognized arguments: two"),
        ("run readahead vda --dur 3", "there is no option '--dur'"),
    ],
)
def test_errors_say_which_word_is_wrong(line: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(line.split())
    assert message in str(raised.value)
    assert "--help" in str(raised.value)
