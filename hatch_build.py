# SPDX-License-Identifier: Apache-2.0
"""Compiles the BPF objects: as hatchling's build hook, or by hand.

Each ``src/kmind/**/X.bpf.c`` becomes ``X.bpf.o`` beside it, when it is older than its
source, any header or this file. An object with an arena gets a twin, ``X.array.bpf.o``, for
kernels without arenas. ``python hatch_build.py`` does only that, and needs nothing but Python,
clang and the libbpf headers.

``KMIND_BUILD_ARCH=aarch64 pip wheel .`` builds a wheel for another architecture: its objects are
compiled in a folder of their own, and those beside the sources are left alone.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "src" / "kmind"
OLDEST_CLANG = 19
NEWEST_CLANG = 25
_ARENA = "kmind/ring.h"  # the header that declares it
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


class BpfBuildHook(BuildHookInterface):
    """Compiles the objects for a wheel, editable or not, and adds them to it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run before hatchling collects files; only wheels reach this hook."""
        platform_tag = sysconfig.get_platform()
        if (target := target_architecture()) == platform.machine():
            compile_all()
            build_data["artifacts"].append("/src/kmind/**/*.bpf.o")
        else:
            for path, inside in compile_for(target, ROOT / "build" / target).items():
                build_data["force_include"][str(path)] = inside
            platform_tag = f"linux-{target}"
        # The objects follow the architecture's register layout; Python's ABI they do not.
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + re.sub(r"[-.]", "_", platform_tag)


def target_architecture() -> str:
    """Return the architecture to build for: this machine's, or that in KMIND_BUILD_ARCH.

    Raises SystemExit for one that the BPF sources do not know.
    """
    target = os.environ.get("KMIND_BUILD_ARCH") or platform.machine()
    if target not in ARCHITECTURES:
        raise SystemExit(
            f"error: kmind has no BPF build for {target}; it knows {', '.join(ARCHITECTURES)}"
        )
    return target


def compile_all() -> list[Path]:
    """Compile what is out of date; return the objects written.

    Raises SystemExit with one line if clang is absent or refuses a source.
    """
    sources = sorted(SOURCES.rglob("*.bpf.c"))
    shared = [Path(__file__), *SOURCES.rglob("*.h")]
    newest = max(path.stat().st_mtime_ns for path in shared)
    stale = [source for source in sources if not _is_fresh(source, newest)]
    if not stale:
        return []
    return _compile_each({source: source.with_suffix(".o") for source in stale}, _flags())


def compile_for(target: str, folder: Path) -> dict[Path, str]:
    """Compile all objects for that architecture below ``folder``; each, and its place in a wheel.

    Raises SystemExit as `compile_all`.
    """
    objects = {
        source: folder / source.relative_to(SOURCES.parent).with_suffix(".o")
        for source in sorted(SOURCES.rglob("*.bpf.c"))
    }
    for path in objects.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    written = _compile_each(objects, _flags(target))
    return {path: path.relative_to(folder).as_posix() for path in written}


def _compile_each(objects: dict[Path, Path], flags: list[str]) -> list[Path]:
    command = [find_clang(), *flags]
    strip = find_strip(command[0])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = pool.map(lambda pair: compile_shapes(*pair, command, strip), objects.items())
        return [path for paths in written for path in paths]


def find_clang() -> str:
    """Return the first clang that is new enough; raise SystemExit if there is none."""
    names = [f"clang-{n}" for n in range(OLDEST_CLANG, NEWEST_CLANG + 1)]
    for name in names:
        if path := shutil.which(name):
            return path
    if (path := shutil.which("clang")) and _clang_version(path) >= OLDEST_CLANG:
        return path
    raise SystemExit(
        f"error: no clang {OLDEST_CLANG} or newer, which the BPF objects need; "
        f"install it (Debian: apt-get install clang-{OLDEST_CLANG} libbpf-dev)"
    )


def find_strip(clang: str) -> str | None:
    """Return the llvm-strip that came with this clang, or None."""
    suffix = Path(clang).name.removeprefix("clang")
    return shutil.which(f"llvm-strip{suffix}")


def _clang_version(clang: str) -> int:
    version = subprocess.run([clang, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\d+)", version.stdout)
    return int(match[1]) if match else 0


def _is_fresh(source: Path, newest: int) -> bool:
    target = source.with_suffix(".o")
    return target.exists() and target.stat().st_mtime_ns > max(source.stat().st_mtime_ns, newest)


def _flags(target: str = "") -> list[str]:
    machine = platform.machine()
    flags = ["-g", "-O2", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3"]
    flags += [f"-D__TARGET_ARCH_{ARCHITECTURES[target or target_architecture()]}"]
    # BTF keeps the name of each source: let it not tell where it was built.
    flags += [f"-ffile-prefix-map={ROOT}=."]
    flags += ["-I", str(SOURCES / "include")]
    # The target bpf has no multiarch folder of its own, and asm/types.h stands there.
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{machine}-linux-gnu"
    if (include := Path("/usr/include") / multiarch).is_dir():
        flags += ["-I", str(include)]
    return flags


def compile_shapes(source: Path, target: Path, command: list[str], strip: str | None) -> list[Path]:
    """Compile an object and, if it has an arena, its twin for kernels without; their paths.

    The object comes last: as long as it is fresh, so is its twin.
    """
    twin = target.with_name(target.name.removesuffix(".bpf.o") + ".array.bpf.o")
    has_arena = (
        _ARENA
        in subprocess.run(
            [*command, "-M", str(source)], capture_output=True, text=True, check=False
        ).stdout
    )
    shapes = [(twin, ["-DKM_SHARED_ARRAY"])] if has_arena else []
    shapes.append((target, []))
    for path, flags in shapes:
        _compile(source, path, [*command, *flags], strip)
    return [path for path, _ in shapes]


def _compile(source: Path, target: Path, command: list[str], strip: str | None) -> None:
    # Written aside and renamed, so that nobody loads half an object.
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        built = subprocess.run([*command, "-c", str(source), "-o", str(partial)], check=False)
        if built.returncode:
            where = source.relative_to(ROOT) if source.is_relative_to(ROOT) else source
            raise SystemExit(f"error: {Path(command[0]).name} refused {where}")
        if strip:  # DWARF goes, BTF stays
            subprocess.run([strip, "-g", str(partial)], check=True)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    for written in compile_all():
        print(written.relative_to(ROOT), file=sys.stderr)
