# SPDX-License-Identifier: Apache-2.0
"""Events: what is emitted, documented and kept for readers is the same."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sample_events import SAMPLES, make

from kmind import events
from kmind.serve.openapi import describe
from kmind.serve.routes import ROUTES
from kmind.serve.schema import EVENT_LINES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/output.md"
NAMES = {kind.__name__: kind for kind in events.EVENTS}


@cache
def sources() -> list[tuple[Path, ast.AST]]:
    """Return all sources but that of the records themselves."""
    own = ROOT / "src/kmind/events.py"
    paths = [path for path in sorted(own.parent.rglob("*.py")) if path != own]
    return [(path, ast.parse(path.read_text())) for path in paths]


def records_made() -> set[str]:
    """Return the names of the event classes that some source makes a record of."""
    found = set()
    for _, tree in sources():
        imported = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "kmind.events"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in imported:
                found.add(imported[node.func.id])
            elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "events":
                found.add(node.func.attr)
    return found & set(NAMES)


def test_each_event_is_emitted_somewhere() -> None:
    assert set(NAMES) - records_made() == set()


def test_no_event_is_emitted_by_name_alone() -> None:
    """An event that is no record would be missing from docs and schema."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("emit", "_emit", "_audit") and node.args:
                assert not isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each["event"])
def test_json_of_an_event_is_as_it_was(sample: dict[str, Any]) -> None:
    event = events.decode(sample)
    assert {"event": event.name, **event.fields()} == sample
    assert msgspec.to_builtins(event) == sample


def test_a_sample_is_kept_of_each_event_and_of_each_of_its_fields() -> None:
    kept: dict[str, set[str]] = {}
    for sample in SAMPLES:
        kept.setdefault(sample["event"], {"event"}).update(sample)
    assert kept == {
        make(name).name: {"event", *events.fields_of(type(make(name)))} for name in kept
    }
    assert set(kept) == {kind.__struct_config__.tag for kind in events.EVENTS}


@pytest.mark.parametrize("kind", events.EVENTS, ids=lambda each: each.__name__)
def test_event_and_fields_are_described(kind: type[events.Event]) -> None:
    assert kind.__doc__
    assert kind.__doc__.split("\n")[0].endswith(".")
    assert all(text for text, _ in events.fields_of(kind).values())


def test_tables_of_the_docs_are_those_of_the_records(tmp_path: Path) -> None:
    before = PAGE.read_text()
    copy = tmp_path / "docs/output.md"
    tool = tmp_path / "tools/event_tables.py"
    for path, text in ((copy, before), (tool, (ROOT / "tools/event_tables.py").read_text())):
        path.parent.mkdir()
        path.write_text(text)
    subprocess.run([sys.executable, tool], check=True)
    assert copy.read_text() == before, "run tools/event_tables.py"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each["event"])
def test_text_of_an_event_is_one_line(sample: dict[str, Any]) -> None:
    event = events.decode(sample)
    assert "\n" not in event.text()
    if event.text():
        assert any(str(value) in event.text() for value in event.fields().values())


def test_the_apis_schema_holds_each_line_of_the_stream() -> None:
    described = describe(ROUTES)
    schemas = described["components"]["schemas"]
    stream = described["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]
    ((_, content),) = stream.items()
    names = {each["$ref"].rpartition("/")[2] for each in content["schema"]["anyOf"]}
    assert names == {f"{kind.__name__}Event" for kind in events.EVENTS if kind.streamed}
    for kind in events.EVENTS:
        if not kind.streamed:
            continue
        properties = schemas[f"{kind.__name__}Event"]["properties"]
        assert set(properties) == {"event", "schema", "ts", *events.fields_of(kind)}
    assert all(line.__doc__ for line in EVENT_LINES)


def test_what_is_no_event_is_refused() -> None:
    for wrong in ({}, {"event": "nonsense"}, {"event": "log"}, {"event": "lost", "lost": "x"}):
        with pytest.raises(msgspec.ValidationError):
            events.decode(json.loads(json.dumps(wrong)))


def test_changes_are_audited_and_never_left_out() -> None:
    audited = {kind.__name__ for kind in events.EVENTS if kind.audited}
    assert audited - {"Request"} == {kind.__name__ for kind in events.EVENTS if not kind.skippable}
    assert {"Applied", "Undone", "Yielded", "Kept", "Dropped", "Mode"} < audited


@pytest.mark.parametrize(
    ("name", "charged"),
    [
        ("applied", "readahead@sim0"),
        ("request", "peer uid 0"),
        ("trouble", "trouble"),
        ("lost", ""),
    ],
)
def test_whose_share_of_the_log_an_event_uses(name: str, charged: str) -> None:
    assert make(name).charged_to == charged


def test_a_line_of_kminds_own_is_charged_to_nobody() -> None:
    assert events.Log(message="serving").charged_to == ""
