# SPDX-License-Identifier: Apache-2.0
"""Requests of an admin to a supervisor, as far as no instance is made."""

from types import SimpleNamespace
from typing import Any

import pytest

from kmind.errors import KmindError, UsageError
from kmind.extension.discovery import discovery
from kmind.extension.discovery.conf import ModuleConf
from kmind.guard import Policy
from kmind.runtime.supervisor.requests import Requests


@pytest.fixture
def requests() -> Requests:
    """Requests to a supervisor that has no instance."""
    nobody: Any = SimpleNamespace(by_name={})
    return Requests(nobody, nobody, Policy(), ModuleConf(), nobody, log=lambda line: None)


def test_load_finds_its_module_once(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    read, load_manifest = [], discovery.load_manifest
    monkeypatch.setattr(
        discovery, "load_manifest", lambda path: read.append(path) or load_manifest(path)
    )
    requests.load("dirty", "system", {}, mode=None, dry_run=True)
    assert len(read) == 1


@pytest.mark.parametrize("given", ["0.1", 0.1])
def test_parameters_are_texts_or_values(requests: Requests, given: Any) -> None:
    plan = requests.load("dirty", "system", {"min_gain": given}, mode=None, dry_run=True)
    assert plan["params"]["min_gain"] == 0.1
    assert plan["dry_run"]


def test_parameter_that_is_given_in_two_spellings_is_refused(requests: Requests) -> None:
    twice = {"min-gain": 0.1, "min_gain": 0.2}
    with pytest.raises(UsageError, match="min_gain is given twice"):
        requests.load("dirty", "system", twice, mode=None, dry_run=True)
    plan = requests.load("dirty", "system", {"min-gain": 0.1}, mode=None, dry_run=True)
    assert plan["params"]["min_gain"] == 0.1


def test_command_of_root_is_refused_to_others(requests: Requests) -> None:
    given = {"objective": "command:true", "user": "root", "knobs": "vm.swappiness"}
    with pytest.raises(KmindError, match="root"):
        requests.load("autotune", "system", given, mode=None, dry_run=True, asker=1000)


def test_target_may_be_left_out_only_where_there_is_one(requests: Requests) -> None:
    assert requests.load("dirty", "", {}, mode=None, dry_run=True)["target"] == "system"
    with pytest.raises(UsageError, match="readahead needs a target: a block device"):
        requests.load("readahead", "", {}, mode=None, dry_run=True)
