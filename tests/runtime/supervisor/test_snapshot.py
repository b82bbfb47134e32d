# SPDX-License-Identifier: Apache-2.0
"""Fill levels of an instance's tables in ``status``, beside the extension's own word."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kmind.agent.core.codec import Fill
from kmind.agent.sim.agent import SimAgent
from kmind.extension.manifest.manifest import TablePart
from kmind.runtime.supervisor.snapshot import Snapshot

DISKS = msgspec.convert(
    {
        "name": "disks",
        "help": "x",
        "rows": 2,
        "key": [{"name": "device", "type": "u32", "help": "x"}],
        "column": [{"name": "requests", "kind": "counter", "help": "x"}],
    },
    TablePart,
)


@pytest.fixture
def agent() -> Iterator[SimAgent]:
    made = SimAgent(realtime=False, now_ns=10**9, tables=[DISKS.shape])
    made.start()
    yield made
    made.close()


def row_of(agent: SimAgent, *tables: TablePart) -> dict[str, Any]:
    manifest = SimpleNamespace(tables=tables)
    member: Any = SimpleNamespace(
        slot=3,
        agent=SimpleNamespace(
            generation=1,
            admission=SimpleNamespace(fill=lambda: Fill(0, 8)),
            table_fds=agent.table_fds,
        ),
        instance=SimpleNamespace(
            name="one@x", module=SimpleNamespace(manifest=manifest), status=dict
        ),
    )
    arbiter: Any = SimpleNamespace(leases=list)
    core: Any = None
    return Snapshot(core, {"one@x": member}, arbiter).row(member)


def test_row_tells_how_full_each_table_is(agent: SimAgent) -> None:
    for device in range(5):
        agent.row("disks", device=device)
    assert row_of(agent, DISKS)["tables"] == {
        "disks": {"rows": 2, "used": 2, "aged": 0, "displaced": 0, "refused": 3}
    }


def test_table_that_an_earlier_version_of_the_module_lacks_is_left_out(agent: SimAgent) -> None:
    more = msgspec.structs.replace(DISKS, name="more")
    wider = msgspec.structs.replace(DISKS, rows=3000)
    assert row_of(agent, DISKS, more)["tables"].keys() == {"disks"}
    assert row_of(agent, wider)["tables"] == {}
