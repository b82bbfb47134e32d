# SPDX-License-Identifier: Apache-2.0
"""Classes of modules: a file each, and nothing else that has to know of it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from extension.manifests import GOOD, write

from kmind import classes
from kmind.abi import layout
from kmind.classes import SERVICES, class_names, find_class, lacking
from kmind.errors import ModuleError
from kmind.extension import Manifest, load_manifest
from kmind.testing import CHECKS

PAGES = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", class_names())
def test_a_class_is_named_as_its_file_and_says_what_it_does(name: str) -> None:
    found = find_class(name)
    assert found.name == name
    assert found.help.endswith(".")
    assert len(name) < layout.INSTANCE["class_name"].itemsize  # with its end
    assert set(found.services) <= set(SERVICES)
    assert len(set(found.services)) == len(found.services)


def test_each_service_is_asked_for_by_parts_of_its_own_and_has_a_user() -> None:
    parts = [part for service in SERVICES for part in service.parts]
    assert sorted(set(parts)) == sorted(parts)
    assert set(parts) <= set(Manifest.__struct_encode_fields__)
    for service in SERVICES:
        assert any(service in find_class(name).services for name in class_names()), service.name


def test_contract_tests_that_classes_name_are_there() -> None:
    by_name = {check.name: check for check in CHECKS}
    for name in class_names():
        for check in find_class(name).checks:
            assert name in by_name[check].classes
    assert by_name["findings"].classes == ("detector",)
    assert by_name["imports"].classes == class_names()
    assert set(class_names()) - set(by_name["windows"].classes) == {"driver"}


def test_a_class_that_is_unknown() -> None:
    with pytest.raises(ValueError, match=r"no class is called '\.\./x'; there are detector, "):
        find_class("../x")


@pytest.mark.parametrize("name", class_names())
def test_the_page_says_what_each_may_hold(name: str) -> None:
    page = (PAGES / "modules.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    found = find_class(name)
    assert found.help in row
    for part in found.parts:
        assert f"`{part}`" in row, part
    for part in lacking(name):
        assert f"`{part}`" not in row, part


NEW = """\
from kmind.classes import FINDINGS, KNOBS, ModuleClass

CLASS = ModuleClass("guardian", help="Does both.", services=(KNOBS, FINDINGS))
"""

KIND = '\n[[finding]]\nname = "slow"\nhelp = "It is slow."\nseverity = "info"\nscore = "How."\n'


@pytest.fixture
def guardian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One file more: the class ``guardian``."""
    folder = tmp_path / "more"
    folder.mkdir()
    folder.joinpath("guardian.py").write_text(NEW)
    monkeypatch.setattr(classes, "__path__", [*classes.__path__, str(folder)])
    cached = (class_names, find_class, lacking)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()
    sys.modules.pop("kmind.classes.guardian", None)


def test_a_class_is_one_file(tmp_path: Path, guardian: None) -> None:
    text = GOOD.replace('"tuner"', '"guardian"')
    assert load_manifest(write(tmp_path, text + KIND)).findings[0].name == "slow"
    with pytest.raises(ModuleError, match=r"report\[0\]: a guardian hands over no reports; that"):
        load_manifest(write(tmp_path, text + '[[report]]\nname = "x"\nhelp = "h"\n'))
    with pytest.raises(ModuleError, match="hands over no findings; that is for a detector or a g"):
        load_manifest(write(tmp_path, GOOD + KIND))
