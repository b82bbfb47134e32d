# SPDX-License-Identifier: Apache-2.0
"""Root takes no module from a place that somebody else can change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmind.errors import ModuleError, PolicyError
from kmind.extension import find_module, list_modules
from kmind.guard import Policy
from kmind.util.trust import refuse_untrusted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown, and root's caution")

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A module's folder, with a file in a folder of its own, below a folder of root's."""
    module = tmp_path / "above" / "quiet"
    (module / "parts").mkdir(parents=True)
    (module / "parts" / "one.py").touch()
    (module / "extension.py").touch()
    refuse_untrusted(module, ModuleError)
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
        refuse_untrusted(folder, ModuleError)
    assert message in str(caught.value)


def test_a_sticky_folder_above_is_as_good_as_tmp(folder: Path) -> None:
    folder.parent.chmod(0o1777)
    refuse_untrusted(folder, ModuleError)


def test_a_link_is_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "code.py").touch()
    (folder / "more.py").symlink_to(elsewhere / "code.py")
    refuse_untrusted(folder, ModuleError)
    elsewhere.chmod(0o777)
    with pytest.raises(ModuleError, match="elsewhere can be written to by everybody"):
        refuse_untrusted(folder, ModuleError)


def test_a_module_is_not_read_before_it_is_asked_for(folder: Path) -> None:
    """A file that another user wrote is not even parsed."""
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
        refuse_untrusted(folder, ModuleError)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy in a folder of root's."""
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "policy.toml"
    path.write_text('forbidden = ["vm.swappiness"]\n')
    path.chmod(0o644)
    assert Policy.load(path).section("vm.swappiness").forbidden
    return path


def linked(path: Path, owner: int) -> Path:
    """Have the file stand elsewhere, and a link of that owner here; where it is now."""
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)
    os.chown(path, owner, 0, follow_symlinks=False)
    return elsewhere / path.name


def by_way_of_another(path: Path) -> None:
    """A link to a link in a folder of another's, which leads to a file of root's."""
    between = linked(path, 0)
    between.rename(path.parent / "real.toml")
    between.symlink_to(path.parent / "real.toml")
    os.chown(between.parent, NOBODY, 0)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


POLICIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "it belongs to another": (lambda path: os.chown(path, NOBODY, 0), "belongs to user 65534"),
    "it is open to all": (lambda path: path.chmod(0o666), "written to by everybody (mode 0666)"),
    "it is open to its group": (
        lambda path: path.chmod(0o664),
        "written to by group 0 (mode 0664)",
    ),
    "its folder belongs to another": (
        lambda path: os.chown(path.parent, NOBODY, 0),
        "etc belongs to user 65534, and root relies on it",
    ),
    "its folder is open to all": (
        lambda path: path.parent.chmod(0o777),
        "etc can be written to by everybody",
    ),
    "it is a link of another's": (lambda path: linked(path, NOBODY), "belongs to user 65534"),
    "it is a link into a folder of another's": (
        lambda path: os.chown(linked(path, 0).parent, NOBODY, 0),
        "elsewhere belongs to user 65534",
    ),
    "it is a link by way of another's folder": (by_way_of_another, "elsewhere belongs to user"),
    "it is a FIFO": (fifo, "is not a regular file"),
    "it is a folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "it is large": (lambda path: os.truncate(path, 2 << 20), "has more than 1 MiB"),
    "it is a circle of links": (circle, "too many links"),
}


@pytest.mark.parametrize("what", POLICIES)
def test_a_policy_that_others_can_change_is_refused(policy: Path, what: str) -> None:
    spoil, message = POLICIES[what]
    spoil(policy)
    with pytest.raises(PolicyError) as caught:
        Policy.load(policy)
    assert message in str(caught.value)


def test_a_policy_may_be_a_link_of_roots(policy: Path, tmp_path: Path) -> None:
    linked(policy, 0)
    assert Policy.load(policy).section("vm.swappiness").forbidden
    policy.unlink()
    policy.symlink_to(os.devnull)
    assert not Policy.load(policy).section("vm.swappiness").forbidden
    assert tmp_path.is_dir()


def test_every_layer_is_asked(policy: Path, tmp_path: Path) -> None:
    kept = tmp_path / "etc/kmind/policy.d"
    kept.mkdir(parents=True)
    (kept / "50-more.toml").write_text("[defaults]\nburst = 3\n")
    assert Policy.load(root=tmp_path).section("defaults").burst == 3
    (kept / "50-more.toml").chmod(0o646)
    with pytest.raises(PolicyError, match=r"50-more\.toml can be written to by everybody"):
        Policy.load(root=tmp_path)
    assert policy.exists()
