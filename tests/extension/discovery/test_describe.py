# SPDX-License-Identifier: Apache-2.0
"""A module in plain records: for each built-in one, and with an administrator's lines."""

import json
from pathlib import Path

import pytest

from kmind.extension import find_module
from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.discovery.describe import describe
from kmind.extension.discovery.discovery import list_modules

NAMES = sorted(module.manifest.name for module in list_modules()[0])


def conf_of(folder: Path, text: str) -> ModuleConf:
    (folder / "one.conf").write_text(text)
    return ModuleConf.load([folder])


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_manifest_is_json(name: str) -> None:
    module = find_module(name)
    found = describe(module, ModuleConf())
    assert json.loads(json.dumps(found, allow_nan=False))["name"] == name
    assert [each["name"] for each in found["features"]] == [
        each.name for each in module.manifest.features
    ]
    assert [each["name"] for each in found["parameters"]] == [
        each.name for each in module.manifest.parameters
    ]
    assert all(each["set"] is None for each in found["parameters"])


def test_what_the_administrator_set_is_beside_what_the_author_did(tmp_path: Path) -> None:
    conf = conf_of(tmp_path, "options readahead patience=9 mode=advise\nblacklist readahead\n")
    found = describe(find_module("readahead"), conf)
    patience = next(each for each in found["parameters"] if each["name"] == "patience")
    assert (patience["set"], patience["set_at"]) == ("9", f"{tmp_path}/one.conf:1")
    assert found["mode"] == "advise"
    assert found["blacklisted"] == f"{tmp_path}/one.conf:2"
