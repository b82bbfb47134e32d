# SPDX-License-Identifier: Apache-2.0
"""Man pages, completion and the page of commands are those of the records, and well formed."""

import subprocess
from pathlib import Path

import pytest

from kmind.abi.enums import MODES
from kmind.cli.reference import files
from kmind.cli.registry import command_names

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = files()
PAGES = [name for name in FILES if name.endswith(".1")]
COMPLETION = "share/bash-completion/completions/kmind"


@pytest.mark.parametrize("name", FILES)
def test_files_are_made_from_the_records(name: str) -> None:
    path = ROOT / name
    assert path.exists(), "run: make reference"
    assert path.read_text() == FILES[name], "run: make reference"


def test_no_file_is_left_of_a_command_that_has_gone() -> None:
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / "share").rglob("*") if path.is_file()}
    assert kept == set(FILES) - {"docs/commands.md"}


def test_every_command_has_its_page() -> None:
    assert {f"share/man/man1/kmind-{name}.1" for name in command_names()} < set(PAGES)


@pytest.mark.needs("groff")
@pytest.mark.parametrize("name", PAGES)
def test_man_pages_render_without_a_warning(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", ROOT / name],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert "EXIT STATUS" in done.stdout


def completed(*words: str) -> set[str]:
    script = (
        f'source {ROOT / COMPLETION}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_kmind kmind "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-euc", script, "bash", "kmind", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.needs("bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("re",), {"record", "reload", "replay", "reports", "restore"}),
        (("--v",), {"--version"}),
        (("run", "readahead", "--m"), {"--mode"}),
        (("run", "--mode", ""), set(MODES)),
        (("advice", "a"), {"apply"}),
        (("model", "r"), {"rollback"}),
        (("model", "import", "--format", "l"), {"lightgbm"}),
        (("bench", "evidence", "--a"), {"--adversary"}),
        (("daemon", "--no"), {"--no-devices"}),
        (("inspect", ""), {"--json", "--help"}),
        (("nothing", "x"), set()),
    ],
)
def test_bash_completes(words: tuple[str, ...], expected: set[str]) -> None:
    assert completed(*words) == expected
