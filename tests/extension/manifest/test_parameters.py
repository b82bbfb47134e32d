# SPDX-License-Identifier: Apache-2.0
"""name=value words become typed parameters, or an error that says which and why."""

from typing import Any

import msgspec
import pytest

from kmind.errors import UsageError
from kmind.extension import Manifest, agent_parameters, parse_parameters
from kmind.extension.manifest.parameters import Setting

PARAMETERS = [
    {"name": "window_ms", "type": "int", "minimum": 1, "maximum": 1000, "default": 100,
     "unit": "ms", "help": "length of a window", "agent": True},
    {"name": "margin", "type": "float", "minimum": 0, "default": 0.05, "help": "smallest gain"},
    {"name": "eager", "type": "bool", "default": False, "help": "whether to hurry", "agent": True},
    {"name": "style", "type": "enum", "choices": ["bold", "shy"], "default": "shy",
     "help": "manner", "agent": True},
    {"name": "label", "type": "str", "help": "name in reports"},
]  # fmt: skip


def make_manifest(**fields: Any) -> Manifest:
    whole = {
        "name": "sample",
        "version": "1",
        "class": "tuner",
        "description": "-",
        "author": "-",
        "licence": "-",
        "agent": {"object": "sample.bpf.c"},
        "extension": {"entry": "extension:Sample"},
        "target": {"kind": "system"},
        "parameter": PARAMETERS,
    }
    return msgspec.convert({**whole, **fields}, Manifest)


def test_defaults_and_types() -> None:
    values = parse_parameters(make_manifest(), ["label=x=y", "window-ms=20", "margin=1"])
    assert values == {
        "window_ms": 20, "margin": 1.0, "eager": False, "style": "shy", "label": "x=y",
    }  # fmt: skip
    assert isinstance(values["margin"], float)


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("TRUE", True), ("0", False)])
def test_bool(word: str, value: bool) -> None:
    assert parse_parameters(make_manifest(), ["label=", f"eager={word}"])["eager"] is value


def test_agent_gets_integers() -> None:
    values = parse_parameters(make_manifest(), ["label=x", "eager=on", "style=shy"])
    assert agent_parameters(make_manifest(), values) == {"window_ms": 100, "eager": 1, "style": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label"], "'label' is not a parameter; parameters are name=value"),
        (["lable=x"], "module sample has no parameter 'lable'; did you mean 'label'?"),
        (["zzz=1"], "module sample has no parameter 'zzz'; there are: eager, label,"),
        (["label=x", "label=y"], "parameter label is given twice"),
        ([], "parameter label is missing; add label=VALUE, text"),
        (["window_ms=0"], "parameter window_ms is '0', and must be an integer from 1 to 1000 ms"),
        (["window_ms=2.5"], "parameter window_ms is '2.5', and must be an integer"),
        (["window_ms="], "parameter window_ms is '', and must be"),
        (["margin=nan"], "parameter margin is 'nan', and must be a number of at least 0"),
        (["margin=inf"], "parameter margin is 'inf', and must be"),
        (["eager=maybe"], "parameter eager is 'maybe', and must be true or false"),
        (["style=loud"], "parameter style is 'loud', and must be one of bold, shy"),
    ],
)
def test_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_parameters(make_manifest(), words)
    assert str(caught.value).startswith(message)


def test_settings_stand_in_for_words() -> None:
    settings = [
        Setting("label", "far", "a.conf:1"),
        Setting("window_ms", "5", "a.conf:1"),
        Setting("window_ms", "6", "b.conf:2"),
    ]
    values = parse_parameters(make_manifest(), ["label=near"], settings)
    assert (values["label"], values["window_ms"]) == ("near", 6)
    assert list(values) == [str(parameter["name"]) for parameter in PARAMETERS]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lable", "x", "a.conf:3: module sample has no parameter 'lable'; did you mean"),
        ("window_ms", "0", "a.conf:3: parameter window_ms is '0', and must be an integer"),
    ],
)
def test_wrong_settings_have_a_place(name: str, text: str, message: str) -> None:
    """Even one that a word of the command line would override."""
    with pytest.raises(UsageError) as caught:
        parse_parameters(
            make_manifest(), ["label=x", "window_ms=1"], [Setting(name, text, "a.conf:3")]
        )
    assert str(caught.value).startswith(message)
