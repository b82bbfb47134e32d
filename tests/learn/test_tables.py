# SPDX-License-Identifier: Apache-2.0
"""Tables in recordings: taken down as they change, and there again in a replay."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from kmind.abi import layout
from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.cli.main import main
from kmind.errors import RecordingError
from kmind.extension import Extension, Module, find_module
from kmind.knobs import Target
from kmind.learn._tables import Changes
from kmind.learn.recorded_instance import RecordedInstance
from kmind.learn.recording import Recording, open_recordings
from kmind.learn.replay import Replay
from kmind.learn.tap import Tap
from kmind.learn.writer import Writer, open_output
from kmind.queue import Endpoint, Table, map_table

PLACES = 6 + layout.LIMIT["TABLE_SPARE"]

MANIFEST = """\
name = "tabled"
version = "1"
class = "detector"
description = "A module for tests."
author = "The kmind authors"
licence = "Apache-2.0"

[agent]
object = "tabled.bpf.c"

[extension]
entry = "extension:Tabled"

[target]
kind = "system"

[[feature]]
name = "reads"
kind = "counter"
help = "reads"

[[table]]
name = "disks"
help = "reads by disk"
rows = 6
evict_after_s = 2

[[table.key]]
name = "device"
type = "u32"
help = "its number"

[[table.key]]
name = "name"
type = "bytes"
size = 4
help = "its name"

[[table.column]]
name = "reads"
kind = "counter"
unit = "1"
help = "reads of it"

[[table.column]]
name = "sizes"
kind = "histogram"
scale = 1
high = 4
help = "how large they are"

[[table]]
name = "other"
help = "never used"
rows = 2

[[table.key]]
name = "x"
type = "i64"
help = "anything"

[[table.column]]
name = "y"
kind = "gauge"
help = "anything"
"""

Seen = list[tuple[int, list[tuple[Any, ...]]]]


class Tabled(Extension):
    """Writes down what its table holds when it is given a window."""

    seen: Seen

    def start(self) -> None:
        Tabled.seen = []

    def on_windows(self, windows: Any) -> None:
        assert len(self.context.tables["other"]) == 0
        table = self.context.tables["disks"]
        assert table.fill().used == len(table)
        self.seen.extend((int(seq), contents(table)) for seq in windows["seq"])


@pytest.fixture
def module(tmp_path: Path) -> Module:
    folder = tmp_path / "tabled"
    folder.mkdir()
    (folder / "module.toml").write_text(MANIFEST)
    (folder / "extension.py").write_text("from kmind.extension import Extension\n")
    return find_module(str(folder))


def contents(table: Table) -> list[tuple[Any, ...]]:
    rows = table.copy()
    return [
        (place, row["key"].tobytes(), int(row["reads"]), row["sizes"].tolist())
        for place, row in zip(table.live().tolist(), rows, strict=True)
    ]


def record(module: Module, output: Path) -> Seen:
    """Twenty windows in which disks come, read and go; what the table held at each."""
    parts = module.manifest.tables
    agent = SimAgent(realtime=False, now_ns=10**9, tables=[part.shape for part in parts])
    table = Table(map_table(agent.table_fds["disks"], parts[0].shape), parts[0].shape)
    clock = [10**9]
    writer = Writer(open_output(output), 1 << 24, 4)
    endpoint = Endpoint(agent.arena, SimDoorbell(agent.doorbell_fd))
    recorded = RecordedInstance(module, Target.system(), {}, agent, [], 0.1)
    tap = Tap(recorded, endpoint, writer, now_ns=lambda: clock[0])
    agent.set_mode(Mode.OBSERVE)
    agent.start()
    choose = np.random.default_rng(4)
    seen: Seen = []
    while len(seen) < 40:
        clock[0] += 10_000_000
        for disk in choose.integers(0, 4 + len(seen) // 4, 3):
            row = agent.row("disks", device=int(disk), name=list(b"sd" + bytes([97 + disk, 0])))
            if row is not None:
                row["reads"] += 1
                row["sizes"][0, disk % 10] += 1
        if choose.random() < 0.05:
            agent.leave("disks", device=1, name=list(b"sdb\0"))
        agent.count(0)
        agent.step(clock[0])
        before = tap.windows
        tap.drain()
        seen += [(before, contents(table))] * (tap.windows - before)
    tap.flush()
    writer.close()
    agent.close()
    return seen


def replayed(module: Module, recording: Recording) -> Seen:
    Replay(recording, module, {}, extension_class=Tabled).run()
    return Tabled.seen


def test_replay_shows_the_tables_as_they_were_at_each_window(
    module: Module, tmp_path: Path
) -> None:
    live = record(module, tmp_path / "out")
    recording = open_recordings(tmp_path / "out")[0]
    assert replayed(module, recording) == live
    assert {len(rows) for _, rows in live} >= {4, 6}, "it was full, and it was not"
    assert len({row[1] for _, rows in live for row in rows}) > 6, "rows changed their keys"


def test_only_rows_that_changed_are_recorded(module: Module) -> None:
    part = module.manifest.tables[0]
    agent = SimAgent(realtime=False, now_ns=10**9, tables=[part.shape])
    changes = Changes(Table(map_table(agent.table_fds["disks"], part.shape), part.shape), part)
    try:
        rows = [agent.row("disks", device=disk) for disk in range(4)]
        assert changes.read(0)["place"].tolist() == [0, 1, 2, 3]
        assert len(changes.read(1)) == 0
        assert rows[2] is not None
        rows[2]["reads"] += 1  # within the same tick
        agent.leave("disks", device=3)
        found = changes.read(2)
        states = dict(zip(found["place"].tolist(), found["row"]["row"]["state"], strict=True))
        assert states == {2: layout.ROW_STATE["LIVE"], 3: layout.ROW_STATE["LEFT"]}
        assert set(found["at"].tolist()) == {2}
        assert len(changes.read(3)) == 0
    finally:
        agent.close()


def test_columns_have_names_units_and_help(module: Module, tmp_path: Path) -> None:
    record(module, tmp_path / "out")
    schema = parquet.read_schema(tmp_path / "out" / "tabled@system.tables-disks.000001.parquet")
    assert schema.names == [
        "at", "place", "row.state", "row.created_ns", "row.updated_ns",
        "key.device", "key.name", "reads", "sizes",
    ]  # fmt: skip
    assert schema.field("sizes").type == pa.list_(pa.uint64(), 10)
    assert schema.field("reads").metadata[b"help"] == b"reads of it"


def test_recording_of_other_tables_is_refused(module: Module, tmp_path: Path) -> None:
    record(module, tmp_path / "out")
    manifest = module.folder / "module.toml"
    manifest.write_text(manifest.read_text().replace("rows = 6", "rows = 7"))
    changed = find_module(str(module.folder))
    with pytest.raises(RecordingError, match="its tables are those of tabled 1"):
        replayed(changed, open_recordings(tmp_path / "out")[0])


def rewrite(path: Path, **columns: Any) -> None:
    table = parquet.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values(len(table)), field.type))
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    "columns",
    [
        {"place": lambda count: [PLACES] * count},
        {"place": lambda count: [2**32 - 1] * count},
        {"place": lambda count: [0] * (count - 1) + [PLACES]},
    ],
)
def test_row_beyond_its_table_is_refused(
    module: Module, tmp_path: Path, columns: dict[str, Any]
) -> None:
    record(module, tmp_path / "out")
    rewrite(tmp_path / "out" / "tabled@system.tables-disks.000001.parquet", **columns)
    with pytest.raises(RecordingError, match=f"a row lies beyond the {PLACES} places of its table"):
        replayed(module, open_recordings(tmp_path / "out")[0])


def test_numbers_of_any_kind_are_borne(module: Module, tmp_path: Path) -> None:
    """A file from elsewhere: whatever its rows hold, the replay goes on to the end."""
    live = record(module, tmp_path / "out")
    choose = np.random.default_rng(6)

    def noise(count: int) -> Any:
        return choose.integers(0, 1 << 32, count, np.uint32)

    path = tmp_path / "out" / "tabled@system.tables-disks.000001.parquet"
    rewrite(path, **dict.fromkeys(("at", "row.state", "row.updated_ns", "key.device"), noise))
    assert len(replayed(module, open_recordings(tmp_path / "out")[0])) == len(live)


def test_metadata_that_names_no_table_is_refused(module: Module, tmp_path: Path) -> None:
    record(module, tmp_path / "out")
    path = tmp_path / "out" / "tabled@system.tables-disks.000001.parquet"
    table = parquet.read_table(path)
    meta = msgspec.json.decode(table.schema.metadata[b"kmind"])
    text = msgspec.json.encode(meta | {"table": "../disks"})
    parquet.write_table(table.replace_schema_metadata({b"kmind": text}), path)
    with pytest.raises(RecordingError, match="is no table of the module"):
        open_recordings(tmp_path / "out")


def test_inspect_tells_of_tables(
    module: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(module, tmp_path / "out")
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    (found,) = msgspec.json.decode(capsys.readouterr().out)["recordings"]
    (disks, other) = found["tables"]
    assert (disks["name"], disks["used"], other["used"]) == ("disks", 6, 0)
    assert disks["rows"] == 6
    assert disks["changes"] > 6
