# SPDX-License-Identifier: Apache-2.0
"""Packages by the distribution's name for them."""

import os
from pathlib import Path

import pytest

from kmind.util import packages
from kmind.util.packages import PACKAGES, distribution, install_hint

DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION_CODENAME=bookworm
ID=debian
# a comment
"""
UBUNTU = """\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
"""
FEDORA = 'NAME="Fedora Linux"\nVERSION="43 (Server Edition)"\nID=fedora\nVERSION_ID=43\n'
ROCKY = 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n'
RHEL = 'NAME="Red Hat Enterprise Linux"\nID="rhel"\nID_LIKE="fedora"\n'
ARCH = 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n'
MANJARO = 'NAME="Manjaro Linux"\nID=manjaro\nID_LIKE=arch\n'
LEAP = 'NAME="openSUSE Leap"\nVERSION="15.6"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n'
TUMBLEWEED = 'NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'
MINT = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
ALPINE = 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.22.1\n'


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "os-release"
    monkeypatch.setattr(packages, "OS_RELEASE", (path, tmp_path / "usr-lib-os-release"))
    return path


@pytest.mark.parametrize(
    ("text", "libbpf", "bpftool"),
    [
        (DEBIAN, "apt install libbpf1", "apt install bpftool"),
        (
            UBUNTU,
            "apt install libbpf1",
            "apt install bpftool (before 25.04: linux-tools-common linux-tools-$(uname -r))",
        ),
        (FEDORA, "dnf install libbpf", "dnf install bpftool"),
        (ROCKY, "dnf install libbpf", "dnf install bpftool"),
        (RHEL, "dnf install libbpf", "dnf install bpftool"),
        (ARCH, "pacman -S libbpf", "pacman -S bpf"),
        (MANJARO, "pacman -S libbpf", "pacman -S bpf"),
        (LEAP, "zypper install libbpf1", "zypper install bpftool"),
        (TUMBLEWEED, "zypper install libbpf1", "zypper install bpftool"),
        (ALPINE, "install libbpf", "install bpftool"),
    ],
)
def test_each_distribution_has_its_own_names(
    release: Path, text: str, libbpf: str, bpftool: str
) -> None:
    release.write_text(text)
    assert (install_hint("libbpf"), install_hint("bpftool")) == (libbpf, bpftool)


def test_a_derived_distribution_is_as_the_first_that_it_names(release: Path) -> None:
    release.write_text(MINT)
    assert distribution() == "ubuntu"


def test_a_version_is_said_with_and_without_a_package(release: Path) -> None:
    release.write_text(DEBIAN)
    assert install_hint("clang", "19 or later") == "apt install clang-19 (19 or later)"
    release.write_text(ALPINE)
    assert install_hint("clang", "19 or later") == "install clang 19 or later"


def test_a_program_without_a_known_package_is_named_as_its_makers_do(release: Path) -> None:
    release.write_text(ARCH)
    assert install_hint("db_bench") == "install db_bench of RocksDB"


def test_the_second_place_counts_if_there_is_no_first(release: Path) -> None:
    assert distribution() == ""
    packages.OS_RELEASE[1].write_text(FEDORA)
    assert distribution() == "fedora"
    release.write_text(ARCH)
    assert distribution() == "arch"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"\xff\xfe\x80 ID=debian",
        b"ID=",
        b'ID="debian',
        b"ID=debian'",
        b"ID=$(reboot)\n",
        b"ID=`cat /etc/shadow`\nID_LIKE=\x1b[2J\n",
        b"ID=../../debian\n",
        b"ID=Debian\n",
        b"# ID=debian\n",
        b"XID=debian\n",
        b"ID=debian; rm -rf /\n",
        b"ID" * (1 << 20) + b"\nID=debian\n",
        b"ID_LIKE=" + b"x " * (1 << 20) + b"debian\n",
    ],
)
def test_text_that_names_no_distribution(release: Path, content: bytes) -> None:
    release.write_bytes(content)
    assert distribution() == ""
    assert install_hint("fio") == "install fio"


def test_the_last_assignment_counts(release: Path) -> None:
    release.write_bytes(b"ID=arch\r\nID='fedora'  \n")
    assert distribution() == "fedora"


def test_a_fifo_a_device_a_folder_and_a_circle_hold_nobody_up(release: Path) -> None:
    os.mkfifo(release)
    assert distribution() == ""
    for target in ("/dev/zero", "/", "os-release"):
        release.unlink()
        release.symlink_to(target)
        assert distribution() == ""


def test_every_package_belongs_to_a_distribution_with_a_command() -> None:
    for name, row in PACKAGES.items():
        assert row.keys() <= packages._COMMANDS.keys(), name
        assert {"debian", "ubuntu"} <= row.keys(), name
    for name in ("libbpf", "clang", "bpftool", "fio"):
        assert PACKAGES[name].keys() == packages._COMMANDS.keys(), name


def test_no_source_names_a_package_manager_but_the_table() -> None:
    sources = Path(packages.__file__).parents[1]
    for path in sources.rglob("*.py"):
        if path != Path(packages.__file__):
            text = path.read_text()
            for command in (*packages._COMMANDS.values(), "apt-get"):
                assert command not in text, path
