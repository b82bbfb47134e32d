# SPDX-License-Identifier: Apache-2.0
"""Records of every version, each brought to the present one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import stores

from kmind.errors import KmindError, LaterVersionError
from kmind.runtime.instance.extension.checkpoint import MEMORY, Checkpoint
from kmind.runtime.instance.models import MODELS
from kmind.runtime.instance.state import STATE, InstanceState
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.util.versions import Format

THIRD = Format(
    "test.record",
    (
        lambda record: record | {"words": record["text"].split()},
        lambda record: {"schema": record["schema"], "words": record["words"], "count": 0},
    ),
)
NEW = {"schema": "test.record/3", "words": ["a", "b"], "count": 0}


@pytest.mark.parametrize(
    "record",
    [
        {"schema": "test.record/1", "text": "a b"},
        {"schema": "test.record/2", "text": "a b", "words": ["a", "b"]},
        NEW,
    ],
)
def test_a_record_takes_the_steps_that_it_lacks(record: dict[str, Any]) -> None:
    before = dict(record)
    assert THIRD.upgrade(record) == NEW
    assert record == before


def test_a_record_of_a_later_version_says_so() -> None:
    with pytest.raises(LaterVersionError) as told:
        THIRD.upgrade({"schema": "test.record/4"})
    assert str(told.value) == "it is test.record/4, and this kmind knows test.record/3"


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"schema": None},
        {"schema": ["test.record/1"]},
        *(
            {"schema": f"test.record{end}"}
            for end in ("", "/", "/0", "/-1", "/1.0", "/1 ", "/\u0661")
        ),
        {"schema": "test.record/" + "9" * 5000},
        {"schema": "other/1"},
    ],
)
def test_what_is_of_no_version_says_so(record: object) -> None:
    with pytest.raises(KmindError) as told:
        THIRD.upgrade(record)
    assert not isinstance(told.value, LaterVersionError)


# Kept copies

FORMATS = {"state": STATE, "models": MODELS, "memory": MEMORY}


@pytest.mark.parametrize("name", FORMATS)
def test_each_version_has_a_kept_copy(name: str) -> None:
    versions = sorted({stores.version(copy) for copy in stores.kept(name)})
    assert versions == list(range(1, FORMATS[name].version + 1))


@pytest.mark.parametrize("copy", stores.kept("state"), ids=lambda copy: copy.stem)
def test_a_kept_state_is_of_use(tmp_path: Path, copy: Path) -> None:
    stores.unpack(copy, tmp_path / f"{stores.INSTANCE}.json")
    (state,), bad = StateFolder(tmp_path).load()
    assert bad == {}
    assert msgspec.structs.replace(state, boot="") == stores.STATE


@pytest.mark.parametrize("copy", stores.kept("models"), ids=lambda copy: copy.stem)
def test_kept_models_are_of_use(tmp_path: Path, copy: Path) -> None:
    stores.unpack(copy, tmp_path / f"{stores.INSTANCE}.models")
    assert StateFolder(tmp_path).load_models(stores.INSTANCE) == stores.MODELS


@pytest.mark.parametrize("copy", stores.kept("memory"), ids=lambda copy: copy.stem)
def test_a_kept_memory_is_of_use(tmp_path: Path, copy: Path) -> None:
    stores.unpack(copy, tmp_path / f"{stores.INSTANCE}.json")
    memory = Checkpoint(
        stores.INSTANCE, tmp_path, stores.budget(), log=pytest.fail, now=lambda: 0.0
    )
    assert memory.load() == stores.TEXT


def test_a_state_does_not_change_without_a_new_version() -> None:
    """But for fields with a default, which an earlier kmind passes over."""
    copy = stores.kept("state")[-1]
    kept = msgspec.json.decode(copy.read_bytes())
    now = msgspec.json.decode(msgspec.json.encode(stores.STATE))
    assert {name: now.get(name) for name in kept} == kept | {"boot": ""}
    required = {
        field.encode_name for field in msgspec.structs.fields(InstanceState) if field.required
    }
    assert required <= set(kept)
