# SPDX-License-Identifier: Apache-2.0
"""Root takes no module from a place that somebody else can change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmind.errors import ModuleError
from kmind.extension import find_module, list_modules
from kmind.extension._trust import refuse_untrusted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown, and root's caution")

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A module's folder, with a file in a folder of its own, below a folder of root's."""
    module = tmp_path / "above" / "quiet"
    (module / "parts").mkdir(parents=True)
    (module / "parts" / "one.py").touch()
    (module / "extension.py").touch()
    refuse_untrusted(module)
    return module


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "the folder belongs to another": (
        lambda folder: os.chown(folder, NOBODY, 0),
        "quiet belongs to user 65534, and root relies on it; chown -R root:",
    ),
    "a file belongs to another": (
        lambda folder: os.chown(folder / "extension.py", NOBODY, 0),
        "extension.py belongs to user 65534",
    ),
    "a file below belongs to another": (
        lambda folder: os.chown(folder / "parts" / "one.py", NOBODY, 0),
        "one.py belongs to user 65534",
    ),
    "a folder above belongs to another": (
        lambda folder: os.chown(folder.parent, NOBODY, 0),
        "above belongs to user 65534",
    ),
    "the folder is open to all": (
        lambda folder: folder.chmod(0o777),
        "quiet can be written to by everybody (mode 0777), and root relies on it; chmod -R go-w",
    ),
    "the folder is open to all, and sticky": (
        lambda folder: folder.chmod(0o1777),
        "quiet can be written to by everybody (mode 1777)",
    ),
    "a file is open to its group": (
        lambda folder: (folder / "extension.py").chmod(0o664),
        "extension.py can be written to by group 0 (mode 0664)",
    ),
    "a folder above is open to all": (
        lambda folder: folder.parent.chmod(0o757),
        "above can be written to by everybody",
    ),
    "a link leads nowhere": (
        lambda folder: (folder / "more.py").symlink_to(folder / "none.py"),
        "more.py leads nowhere; ",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt(folder: Path, what: str) -> None:
    spoil, message = SPOILT[what]
    spoil(folder)
    with pytest.raises(ModuleError) as caught:
        refuse_untrusted(folder)
    assert message in str(caught.value)


def test_a_sticky_folder_above_is_as_good_as_tmp(folder: Path) -> None:
    folder.parent.chmod(0o1777)
    refuse_untrusted(folder)


def test_a_link_is_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "code.py").touch()
    (folder / "more.py").symlink_to(elsewhere / "code.py")
    refuse_untrusted(folder)
    elsewhere.chmod(0o777)
    with pytest.raises(ModuleError, match="elsewhere can be written to by everybody"):
        refuse_untrusted(folder)


def test_a_module_is_not_read_before_it_is_asked_for(folder: Path) -> None:
    """What another user wrote is not even parsed."""
    (folder / "module.toml").write_text("this is no TOML")
    with pytest.raises(ModuleError, match="not TOML"):
        find_module(str(folder))
    (folder / "module.toml").chmod(0o666)
    with pytest.raises(ModuleError, match=r"module\.toml can be written to by everybody"):
        find_module(str(folder))


def test_built_in_modules_are_as_trusted_as_kmind_itself() -> None:
    assert "readahead" in [module.manifest.name for module in list_modules()[0]]


def test_what_is_no_modules_folder_is_not_walked_to_its_end(folder: Path) -> None:
    for number in range(4097):
        folder.joinpath(str(number)).touch()
    with pytest.raises(ModuleError, match="holds more than 4096 files; name the folder of one"):
        refuse_untrusted(folder)
