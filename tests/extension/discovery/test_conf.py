# SPDX-License-Identifier: Apache-2.0
"""modules.d: what the lines mean, whose file counts, and errors with file and line."""

import os
from pathlib import Path

import pytest

from kmind.errors import ModuleError
from kmind.extension.discovery.conf import Autoload, ModuleConf
from kmind.extension.manifest.alias import Alias

TEXT = """\
# What this machine wants.
alias block:sd*,DEVTYPE=disk read-ahead

options read-ahead patience=3 \\
        random-kb=32
  options read_ahead mode=auto
blacklist noisy
autoload quiet system
autoload read-ahead vda random-kb=64 mode=canary "label=two words"
autoload noisy system
"""


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[Path, Path]:
    vendor, admin = tmp_path / "vendor", tmp_path / "admin"
    vendor.mkdir()
    admin.mkdir()
    return vendor, admin


def test_lines(dirs: tuple[Path, Path]) -> None:
    path = dirs[1] / "50-here.conf"
    path.write_text(TEXT)
    conf = ModuleConf.load(dirs)
    assert [(line.pattern, line.module, line.at) for line in conf.aliases] == [
        (Alias.parse("block:sd*,DEVTYPE=disk"), "read_ahead", f"{path}:2")
    ]
    options = conf.options("read_ahead")
    assert [(each.name, each.text) for each in options] == [("patience", "3"), ("random_kb", "32")]
    assert {each.at for each in options} == {f"{path}:4"}
    assert conf.mode("read_ahead") == "auto"
    assert (conf.options("quiet"), conf.mode("quiet")) == ((), None)
    assert conf.blacklisted("noisy") == f"{path}:7"
    assert conf.blacklisted("quiet") is None
    parameters = {"random_kb": "64", "label": "two words"}
    assert conf.autoload == (
        Autoload("quiet", "system", {}, None, f"{path}:8"),
        Autoload("read_ahead", "vda", parameters, "canary", f"{path}:9"),
    )


def test_nothing_there(tmp_path: Path) -> None:
    assert ModuleConf.load([tmp_path / "none"]) == ModuleConf()


def test_files_are_merged_by_name(dirs: tuple[Path, Path]) -> None:
    vendor, admin = dirs
    (vendor / "10-a.conf").write_text("options m x=vendor-a\n")
    (vendor / "20-b.conf").write_text("options m y=vendor-b\n")
    (vendor / "30-c.conf").write_text("blacklist m\n")
    (admin / "20-b.conf").write_text("options m y=admin-b\n")
    (admin / "15-d.conf").write_text("options m x=admin-d\n")
    (admin / "30-c.conf").symlink_to("/dev/null")
    (admin / "40-e.txt").write_text("this is no configuration\n")
    conf = ModuleConf.load(dirs)
    assert [(each.name, each.text) for each in conf.options("m")] == [
        ("x", "vendor-a"), ("x", "admin-d"), ("y", "admin-b"),
    ]  # fmt: skip
    assert conf.blacklisted("m") is None


def test_an_empty_file_hides_too(dirs: tuple[Path, Path]) -> None:
    vendor, admin = dirs
    (vendor / "a.conf").write_text("blacklist m\n")
    (admin / "a.conf").touch()
    assert ModuleConf.load(dirs) == ModuleConf()


WRONG = [
    ("optoins m x=1", "unknown word 'optoins'; did you mean 'options'?"),
    ("install m rm", "unknown word 'install'; there are: alias, autoload, blacklist, options"),
    ("alias block:*", "the syntax is: alias PATTERN MODULE"),
    ("alias block:* m n", "the syntax is: alias PATTERN MODULE"),
    ("alias sd* m", "'sd*' is no SUBSYSTEM:NAME"),
    ("blacklist", "the syntax is: blacklist MODULE"),
    ("blacklist a b", "the syntax is: blacklist MODULE"),
    ("options m", "the syntax is: options MODULE NAME=VALUE..."),
    ("options m x", "'x' is not a parameter; parameters are name=value"),
    ("options m x=1 x=2", "x is given twice"),
    ("options m mode=emergency", "mode is 'emergency', and must be one of observe, advise"),
    ("autoload m", "the syntax is: autoload MODULE TARGET"),
    ("autoload m x=1", "'x=1' is not a target; the syntax is:"),
    ("autoload m vda x", "'x' is not a parameter"),
    ('options m x="1', "No closing quotation"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_wrong(dirs: tuple[Path, Path], line: str, message: str) -> None:
    path = dirs[1] / "a.conf"
    path.write_text(f"# first\n\nblacklist \\\n  other\n{line}\n# last\n")
    with pytest.raises(ModuleError) as caught:
        ModuleConf.load(dirs)
    assert str(caught.value).startswith(f"{path}:5: {message}")
    assert "\n" not in str(caught.value)


def test_a_line_that_goes_on_beyond_the_end(dirs: tuple[Path, Path]) -> None:
    (dirs[1] / "a.conf").write_text("blacklist m\\")
    with pytest.raises(ModuleError, match=r"a\.conf:1: No escaped character"):
        ModuleConf.load(dirs)


def test_not_text(dirs: tuple[Path, Path]) -> None:
    (dirs[1] / "a.conf").write_bytes(b"\xff\xfe")
    with pytest.raises(ModuleError, match=r"a\.conf: cannot be read"):
        ModuleConf.load(dirs)


def test_unknown_modules_are_named_with_their_place(dirs: tuple[Path, Path]) -> None:
    path = dirs[1] / "a.conf"
    path.write_text("options quite x=1 y=2\nautoload quiet system\nalias net:* loud\n")
    assert ModuleConf.load(dirs).unknown(["quiet"]) == [
        f"{path}:3: there is no module 'loud'; there are: quiet",
        f"{path}:1: there is no module 'quite'; did you mean 'quiet'?",
    ]


def test_what_an_editor_or_a_package_manager_leaves_is_passed_over(dirs: tuple[Path, Path]) -> None:
    (dirs[1] / "local.conf").write_text("blacklist m\n")
    (dirs[1] / ".#local.conf").symlink_to("admin@host.example.4242:1700000000")
    for name in (
        "local.conf~",
        "#local.conf#",
        ".local.conf.swp",
        "local.conf.dpkg-old",
        ".x.conf",
    ):
        (dirs[1] / name).write_text("this is no configuration\n")
    (dirs[1] / "README").touch()
    conf = ModuleConf.load(dirs)
    assert conf.blacklisted("m")
    assert conf.wrong == ()
    names = {Path(each).name for each in conf.passed_over}
    assert {".#local.conf", "local.conf~", ".x.conf"} <= names
    assert not {"local.conf", "README"} & names


BROKEN = {
    "text": lambda path: path.write_text("blacklist barred\noptoins m x=1\noptions m y=2\n"),
    "bytes": lambda path: path.write_bytes(b"blacklist \xff\n"),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
    "huge": lambda path: path.write_text("# \n" * (1 << 19)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_wrong_file_costs_no_other_where_it_is_not_to(dirs: tuple[Path, Path], kind: str) -> None:
    (dirs[0] / "10-good.conf").write_text("options m x=1\n")
    BROKEN[kind](dirs[1] / "20-wrong.conf")
    (dirs[1] / "30-good.conf").write_text("autoload n system\nautoload barred system\n")
    with pytest.raises(ModuleError):
        ModuleConf.load(dirs)
    conf = ModuleConf.load(dirs, strict=False)
    assert [(each.name, each.text) for each in conf.options("m")] == [("x", "1")]
    (why,) = conf.wrong
    assert "20-wrong.conf" in why
    # What the file bars is barred all the same.
    assert (conf.blacklisted("barred") is not None) == (kind == "text")
    assert [each.module for each in conf.autoload] == ["n", "barred"][: 1 if kind == "text" else 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is protected from others' files")
def test_a_file_that_others_can_write(dirs: tuple[Path, Path]) -> None:
    path = dirs[1] / "a.conf"
    path.touch()
    path.chmod(0o666)
    with pytest.raises(ModuleError, match=r"a\.conf can be written to by everybody \(mode 0666\)"):
        ModuleConf.load(dirs)
