# SPDX-License-Identifier: Apache-2.0
"""tools/measures.py counts what is there, and tools/ways.py finds the way of a recommendation."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
MEASURES = runpy.run_path(str(TOOLS / "measures.py"))
OWN = MEASURES["rows"](MEASURES["Tree"](TOOLS.parent))

FILES = {
    "src/kmind/__init__.py": "",
    "src/kmind/util/__init__.py": "",
    "src/kmind/util/_hidden.py": '"""What it does."""\n_x = 1\n',
    "src/kmind/runtime/__init__.py": "",
    "src/kmind/runtime/service.py": "import kmind.runtime.one.b\n",
    "src/kmind/runtime/one/__init__.py": "",
    "src/kmind/runtime/one/a.py": (
        "from kmind.runtime.one import b\nfrom kmind.util._hidden import _x\n"
    ),
    "src/kmind/runtime/one/b.py": "def f():\n    from kmind.runtime.one.a import y\n",
    "src/kmind/runtime/one/c.py": (
        "class C:\n"
        "    def __init__(self, a, *, b): ...\n"
        "    def f(self):\n"
        '        """Whether it does."""\n'
        "    def _g(self): ...\n"
    ),
    "README.md": "word " * 30 + "\n\n    " + "code " * 30 + "\n\n| " + "cell " * 30 + "|\n",
}


@pytest.fixture
def found(tmp_path: Path) -> dict[str, str]:
    """The measures of a made-up checkout, name to value."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return {row.name: row.value for row in MEASURES["rows"](MEASURES["Tree"](tmp_path))}


def test_made_up_checkout_is_counted(found: dict[str, str]) -> None:
    assert found == {
        "runtime/: most files in one folder": "3",
        "runtime/: rooms": "2",
        "runtime/: levels": "2",
        "runtime/: arrows between rooms": "1",
        "runtime/: circles of rooms": "0",
        "file circles": "1",
        "private imports across folders": "1",
        "largest class: public methods": "1",
        "largest class: lines": "5",
        "most parameters of a constructor": "2",
        'docstrings that begin with "What" or "Whether"': "2",
        "prose lines over 100 columns": "1",
    }


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("runtime/: most files in one folder", 14),
        ("runtime/: levels", 6),
        ("runtime/: arrows between rooms", 30),
        ("runtime/: circles of rooms", 0),
        ("file circles", 0),
        ("private imports across folders", 0),
        ("largest class: public methods", 20),
        ("largest class: lines", 400),
        ("most parameters of a constructor", 6),
        ('docstrings that begin with "What" or "Whether"', 0),
        ("prose lines over 100 columns", 0),
    ],
)
def test_sources_keep_within_what_was_reached(name: str, most: int) -> None:
    row = next(row for row in OWN if row.name == name)
    assert int(row.value) <= most, row.detail


def test_circle_counts_as_one_level() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert MEASURES["circles"](graph) == [{"b", "c"}]
    assert MEASURES["levels"](graph) == 3


def test_recommendation_is_followed_from_window_to_event() -> None:
    done = subprocess.run(
        [sys.executable, TOOLS / "ways.py", "recommendation", "-v"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("Dispatcher.step", "Context.recommend", "Verdicts.handle", "TrialHolds.keep"):
        assert name in done.stdout
    assert "simulated_disk" not in done.stdout
