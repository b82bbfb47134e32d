# SPDX-License-Identifier: Apache-2.0
"""Loads that the daemon refuses: with place, reason and exit code, and nothing is left."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from kernel.attacked import rows
from sample_module import MANIFEST, loop_disk, make_module
from serve.real import Host, host

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

USAGE = 2
NOBODY = 65534


@dataclass
class World:
    """A daemon with nothing loaded, and a disk."""

    host: Host
    disk: str

    def refused(self, *words: str) -> str:
        """Return the one line in which ``kmind load`` refuses; nothing is loaded then."""
        done = subprocess.run(
            self.host.command("load", *words), env=self.host.environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == USAGE, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert self.host.client.get("/v1/instances")["instances"] == []
        assert rows(self.host) == {}
        asked = [line for line in self.host.log() if line["event"] == "request"]
        assert asked[-1]["result"] != "done", asked[-1]
        return done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Modules that depend on each other in a circle are installed there too."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("refused")
        disk = stack.enter_context(loop_disk(folder))
        machine = stack.enter_context(host(folder))
        packages = folder / "packages"
        for name, needs in (("hen", "egg"), ("egg", "hen")):
            _install(packages, name, f'depends = ["{needs}"]')
        machine.environment["PYTHONPATH"] += os.pathsep + str(packages)
        machine.start()
        yield World(machine, disk)
        assert machine.end() == 0


def _install(packages: Path, name: str, line: str) -> None:
    manifest = MANIFEST.replace('"sample"', f'"{name}"', 1).replace("[agent]", f"{line}\n[agent]")
    (packages / f"kmind_test_{name}").mkdir(parents=True)
    made = make_module(packages / f"kmind_test_{name}", manifest=manifest)
    made.rename(made.with_name(name))
    info = packages / f"kmind_test_{name}-1.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kmind-test-{name}\nVersion: 1\n"
    )
    info.joinpath("entry_points.txt").write_text(
        f"[kmind.modules]\n{name} = kmind_test_{name}.{name}\n"
    )


def of_another_user(module: Path) -> str:
    os.chown(module / "extension.py", NOBODY, NOBODY)
    return f"{module}/extension.py belongs to user {NOBODY}"


def world_writable(module: Path) -> str:
    module.joinpath("readahead.bpf.o").chmod(0o666)
    return f"{module}/readahead.bpf.o can be written to by everybody (mode 0666)"


def in_a_world_writable_folder(module: Path) -> str:
    module.parent.chmod(0o777)
    return f"{module.parent} can be written to by everybody (mode 0777)"


def linked_to_another_user(module: Path) -> str:
    theirs = module.parent / "theirs.py"
    module.joinpath("extension.py").rename(theirs)
    os.chown(theirs, NOBODY, NOBODY)
    module.joinpath("extension.py").symlink_to(theirs)
    return f"{theirs} belongs to user {NOBODY}"


@pytest.mark.parametrize(
    "spoil", [of_another_user, world_writable, in_a_world_writable_folder, linked_to_another_user]
)
def test_what_others_could_change(
    world: World, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    reason = spoil(make_module(tmp_path))
    assert reason in world.refused(str(tmp_path / "sample"), world.disk)


def test_a_circle_of_dependencies(world: World) -> None:
    said = world.refused("hen", world.disk)
    assert "modules depend on each other in a circle: hen -> egg -> hen" in said


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("valeu=3", "module sample has no parameter 'valeu'; did you mean 'value'?"),
        ("value=much", "parameter value is"),
        ("hold_s=0.01", "parameter hold_s is"),
    ],
)
def test_parameters(world: World, tmp_path: Path, word: str, reason: str) -> None:
    assert reason in world.refused(str(make_module(tmp_path)), world.disk, word)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ('class = "tuner"', 'class = "toaster"'),
        ('object = "readahead.bpf.c"', 'object = "../readahead.bpf.c"'),
        ('name = "block.read_ahead_kb"', 'name = "block.read_ahed_kb"'),
        ('type = "int"', 'type = "number"'),
        ('kind = "counter"', 'kind = "counter"\ncolour = "red"'),
        ("[target]", "[target"),
    ],
)
def test_manifests_with_errors(world: World, tmp_path: Path, line: str, instead: str) -> None:
    """The line is named, and what is wrong there."""
    module = make_module(tmp_path, manifest=MANIFEST.replace(line, instead, 1))
    wrong = instead.split("\n")[-1]
    number = (module / "module.toml").read_text().splitlines().index(wrong) + 1
    said = world.refused(str(module), world.disk)
    assert f"{module}/module.toml:{number}: " in said


def test_a_module_that_is_not_there(world: World, tmp_path: Path) -> None:
    assert "did you mean 'static'" in world.refused("statik", world.disk, "value=4")
    world.refused(str(tmp_path / "nowhere"), world.disk)
    assert "unknown block device" in world.refused("static", "sdzz", "value=4")
