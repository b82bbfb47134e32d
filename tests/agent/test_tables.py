# SPDX-License-Identifier: Apache-2.0
"""Tables by one contract: in the running kernel, and simulated."""

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from agents import compile_bpf
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.sim.agent import SimAgent
from kmind.errors import BpfError
from kmind.extension.manifest.manifest import TablePart
from kmind.queue import Table, TableFill, bucket_of, map_table

ROWS_C = Path(__file__).with_name("rows.bpf.c")
WORK = np.dtype([
    ("first", "<u8"), ("keys", "<u4"), ("turns", "<u4"), ("value", "<u8"),
    ("leave", "<u4"), ("missed", "<u4"),
])  # fmt: skip
"""``struct rows_work`` of rows.bpf.c."""
BUCKETS = np.dtype([("value", "<u8", (8,)), ("fine", "<u4", (8,)), ("log2", "<u4", (8,))])
"""``struct rows_buckets``."""
ROWS = 64
AGE_S = 1.0
LEFT = layout.ROW_STATE["LEFT"]


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "help": "x", **more}


def part(**words: Any) -> TablePart:
    return msgspec.convert(words, TablePart)


def rows_part(rows: int = ROWS, evict_after_s: float | None = None) -> TablePart:
    return part(
        **named("rows"),
        rows=rows,
        evict_after_s=evict_after_s,
        key=[named("number", type="u64")],
        column=[
            named("count", kind="counter"),
            named("level", kind="gauge"),
            named("size", kind="histogram", scale=3, low=0, high=16),
            named("power", kind="histogram", scale=0, low=0, high=32),
        ],
    )


CALLS = part(
    **named("calls"),
    rows=4,
    key=[
        named("pid", type="u32"),
        named("kind", type="u16"),
        named("name", type="bytes", size=6),
    ],
    column=[named("calls", kind="counter")],
)


class KernelRows:
    """The agent of rows.bpf.c."""

    def __init__(self, path: Path, table: TablePart, **options: Any) -> None:
        self.agent = BpfAgent(
            path,
            tables=[table.shape, CALLS.shape],
            hooks={"rows_on_call": "sys_enter"},
            parameters={"pid": os.getpid()},
            **options,
        )
        try:
            self.table = Table(map_table(self.agent.table_fds["rows"], table.shape), table.shape)
            self.agent.start()
        except BaseException:
            self.agent.close()
            raise

    def update(self, **words: int) -> int:
        """Update rows as a hook would; how many updates found no room."""
        work = np.zeros((), WORK)
        for name, value in words.items():
            work[name] = value
        return int(np.frombuffer(self.agent.own.run("rows_run", work.tobytes()), WORK)[0]["missed"])

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until that holds."""
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "it did not come about within 20 s"
            time.sleep(0.002)


class SimRows:
    """The same, simulated, in virtual time."""

    def __init__(self, table: TablePart) -> None:
        self.agent = SimAgent(realtime=False, now_ns=10**9, tables=[table.shape, CALLS.shape])
        self.table = Table(map_table(self.agent.table_fds["rows"], table.shape), table.shape)
        self.agent.start()
        self._now = 10**9

    def update(self, *, first: int, keys: int, turns: int, value: int = 0, leave: int = 0) -> int:
        missed = 0
        for turn in range(turns):
            key = first + turn % keys
            if leave:
                self.agent.leave("rows", number=key)
                continue
            row = self.agent.row("rows", number=key)
            if row is None:
                missed += 1
                continue
            row["count"] += 1
            row["level"] = value
            row["size"][0, bucket_of(value, 3, 0, 16)] += 1
            row["power"][0, bucket_of(value, 0, 0, 32)] += 1
        return missed

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if condition():
                return
            self._now += 2_000_000
            self.agent.step(self._now)
        raise AssertionError("it did not come about within 20 s")


Rows = KernelRows | SimRows
Made = Callable[[TablePart], Rows]


@pytest.fixture(scope="session")
def rows_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_bpf(ROWS_C, tmp_path_factory.mktemp("rows") / "rows.bpf.o")


@pytest.fixture(
    params=[
        "sim",
        pytest.param("arena", marks=pytest.mark.kernel("tp_btf", "arena", "arena_atomics")),
        pytest.param("array", marks=pytest.mark.kernel("tp_btf")),
    ]
)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    made: list[Rows] = []
    if request.param != "sim":
        monkeypatch.setenv("KMIND_SHARED", request.param)

    def of(table: TablePart) -> Rows:
        if request.param == "sim":
            made.append(SimRows(table))
        else:
            made.append(KernelRows(request.getfixturevalue("rows_object"), table))
        return made[-1]

    yield of
    for each in made:
        each.agent.close()


def has_room(rows: Rows, number: int) -> bool:
    return rows.update(first=number, keys=1, turns=1) == 0


def keys_of(rows: Rows) -> list[int]:
    return keys_in(rows.table)


def keys_in(table: Table) -> list[int]:
    return sorted(table.copy()["key"]["number"].tolist())


def aged(rows: Rows, number: int, seconds: float) -> Callable[[], bool]:
    """Check that a key's last update lies at least that far behind the newest one."""

    def holds() -> bool:
        rows.update(first=10**6, keys=1, turns=1)
        updated = rows.table.rows["row"]["updated_ns"]
        row = rows.table.find(number=number)
        assert row is not None
        return int(updated.max()) - int(row["row"]["updated_ns"][0]) >= seconds * 1e9

    return holds


# The contract.


def test_row_counts_sets_and_observes(make: Made) -> None:
    rows = make(rows_part())
    assert rows.update(first=5, keys=3, turns=10, value=100) == 0
    assert keys_of(rows) == [5, 6, 7]
    row = rows.table.find(number=5)
    assert row is not None
    assert (int(row["count"][0]), int(row["level"][0])) == (4, 100)
    assert np.flatnonzero(row["size"][0]).tolist() == [bucket_of(100, 3, 0, 16)]
    assert np.flatnonzero(row["power"][0]).tolist() == [bucket_of(100, 0, 0, 32)]
    assert int(row["size"].sum()) == int(row["power"].sum()) == 4
    assert rows.table.fill() == TableFill(ROWS, used=3, aged=0, displaced=0, refused=0)


def test_rows_are_seen_without_a_copy(make: Made) -> None:
    rows = make(rows_part())
    rows.update(first=1, keys=1, turns=1)
    row = rows.table.find(number=1)
    assert row is not None
    rows.update(first=1, keys=1, turns=9)
    assert int(row["count"][0]) == 10


def test_full_table_refuses_new_keys_and_counts_them(make: Made) -> None:
    rows = make(rows_part())
    assert rows.update(first=0, keys=ROWS + 10, turns=ROWS + 10) == 10
    assert keys_of(rows) == list(range(ROWS))
    fill = rows.table.fill()
    assert (fill.used, fill.refused) == (ROWS, 10)


def test_oldest_row_makes_room_for_a_new_key(make: Made) -> None:
    rows = make(rows_part(rows=15))
    rows.update(first=0, keys=14, turns=14)
    rows.update(first=10**6, keys=1, turns=1)
    rows.until(aged(rows, 3, 0.05))
    for key in (0, 1, 2, *range(4, 14)):  # all but 3
        rows.update(first=key, keys=1, turns=1)
    rows.until(aged(rows, 3, 0.15))
    rows.until(lambda: rows.update(first=99, keys=1, turns=1) == 0)
    assert keys_of(rows) == sorted([*{*range(14)} - {3}, 99, 10**6])
    assert rows.table.fill().displaced == 1
    row = rows.table.find(number=99)
    assert row is not None
    assert int(row["count"][0]) == 1, "its row is made anew"


def test_row_that_is_updated_keeps_its_key(make: Made) -> None:
    rows = make(rows_part(rows=8))
    rows.update(first=0, keys=8, turns=8)
    refused = 0
    for _ in range(20):
        rows.update(first=0, keys=8, turns=8)
        refused += rows.update(first=99, keys=1, turns=1)
    if isinstance(rows, SimRows):
        assert refused == 20, "no time passes: all rows are younger than 100 ms"
    assert rows.table.fill().refused == refused


def test_row_that_nothing_updates_is_evicted(make: Made) -> None:
    rows = make(rows_part(evict_after_s=AGE_S))
    rows.update(first=1, keys=2, turns=2)

    def only_one_left() -> bool:
        rows.update(first=1, keys=1, turns=1)
        return keys_of(rows) == [1]

    rows.until(only_one_left)
    fill = rows.table.fill()
    assert (fill.used, fill.aged, fill.displaced) == (1, 1, 0)


def test_key_that_left_begins_anew(make: Made) -> None:
    rows = make(rows_part(rows=2))
    rows.update(first=1, keys=2, turns=20)
    rows.update(first=1, keys=1, turns=1, leave=1)
    assert keys_of(rows) == [2]
    rows.until(lambda: rows.update(first=1, keys=1, turns=1) == 0)
    row = rows.table.find(number=1)
    assert row is not None
    assert int(row["count"][0]) == 1
    assert rows.table.fill().displaced == 0
    rows.update(first=50, keys=1, turns=1, leave=1)  # one that is not there


def test_row_that_left_makes_room_before_it_has_rested(make: Made) -> None:
    rows = make(rows_part(rows=2))
    rows.update(first=1, keys=2, turns=2)
    assert rows.update(first=3, keys=1, turns=1) == 1
    rows.update(first=1, keys=1, turns=1, leave=1)
    assert rows.update(first=3, keys=1, turns=1) == 0
    assert keys_of(rows) == [2, 3]
    assert rows.update(first=4, keys=1, turns=1) == 1


def test_places_are_used_again_and_again(make: Made) -> None:
    rows = make(rows_part(rows=16))
    for number in range(200):
        rows.until(partial(has_room, rows, number))
        rows.update(first=number, keys=1, turns=1, leave=1)
    rows.until(lambda: rows.update(first=500, keys=16, turns=16) == 0)
    assert keys_of(rows) == list(range(500, 516))
    assert rows.table.fill().used == 16


def test_mapping_cannot_be_made_writable(make: Made) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    address = make(rows_part()).table.rows.ctypes.data
    page = ctypes.c_void_p(address // mmap.PAGESIZE * mmap.PAGESIZE)
    both = mmap.PROT_READ | mmap.PROT_WRITE
    assert libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), both) == -1
    assert ctypes.get_errno() == errno.EACCES


# Only in the kernel.


@pytest.fixture
def kernel_rows(rows_object: Path, each_shape: str) -> Iterator[KernelRows]:
    rows = KernelRows(rows_object, rows_part(rows=1024))
    yield rows
    rows.agent.close()


def on_each_cpu(work: Callable[[int], object], cpus: Sequence[int] = ()) -> None:
    """Run that on all CPUs, or on those, at the same time, one thread on each."""
    cpus = cpus or sorted(os.sched_getaffinity(0))
    start = threading.Barrier(len(cpus))

    def run(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        start.wait()
        work(cpu)

    threads = [threading.Thread(target=run, args=(cpu,)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.kernel("tp_btf")
def test_sums_over_all_cpus_are_exact(kernel_rows: KernelRows) -> None:
    """All CPUs insert and update the same keys at the same time: nothing lost, no key twice."""
    turns = 100_000
    on_each_cpu(lambda cpu: kernel_rows.update(first=0, keys=300, turns=turns, value=cpu))
    rows = kernel_rows.table.copy()
    cpus = len(os.sched_getaffinity(0))
    assert sorted(rows["key"]["number"].tolist()) == list(range(300))
    assert int(rows["count"].sum()) == int(rows["size"].sum()) == turns * cpus
    assert kernel_rows.table.fill() == TableFill(1024, 300, 0, 0, 0)


@pytest.mark.kernel("tp_btf")
def test_new_keys_from_all_cpus_get_one_row_each(rows_object: Path) -> None:
    """The CPUs insert the same keys in the same order, and whoever is behind catches up.

    There are 1,000 rows for 1,100 keys: the last row too has the updates of all CPUs, and every
    update of the keys after it is refused and counted.
    """
    cpus = sorted(os.sched_getaffinity(0))[: layout.LIMIT["TABLE_SPARE"] + 1]
    rows = KernelRows(rows_object, rows_part(rows=1000))
    try:
        for number in range(1, 31):
            work = {"first": 2000 * number, "keys": 1100, "turns": 1100}
            missed: list[int] = []
            on_each_cpu(lambda _, w=work, m=missed: m.append(rows.update(**w)), cpus)
            held = rows.table.copy()
            keys = range(work["first"], work["first"] + 1000)
            assert sorted(held["key"]["number"].tolist()) == list(keys)
            assert set(held["count"].tolist()) == {len(cpus)}
            assert missed == [100] * len(cpus)
            assert rows.table.fill() == TableFill(1000, 1000, 0, 0, 100 * len(cpus) * number)
            rows.update(**work, leave=1)
            rows.until(lambda: not (rows.table.rows["row"]["state"] == LEFT).any())
    finally:
        rows.agent.close()


@pytest.mark.kernel("tp_btf")
def test_nothing_is_counted_for_another_key_while_keys_come_and_go(rows_object: Path) -> None:
    """All CPUs insert, set to its number and take out the same keys: no row holds another's."""
    rows = KernelRows(rows_object, rows_part(rows=1000))
    mixed: list[npt.NDArray[np.void]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            held = rows.table.copy()
            # A row that is just made has its key, and no value yet.
            mixed.append(held[(held["level"] != held["key"]["number"]) & (held["level"] != 0)])

    def churn(cpu: int) -> None:
        for _ in range(30):
            rows.update(first=1, keys=50 + cpu, turns=20_000, leave=2)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        on_each_cpu(churn)
    finally:
        done.set()
        reader.join()
    try:
        assert not any(map(len, mixed))
        # All places are free again: none was lost, none is there twice.
        rows.update(first=1, keys=60, turns=60, leave=1)
        rows.until(lambda: rows.update(first=10**7, keys=1000, turns=1000) == 0)
        assert keys_of(rows) == list(range(10**7, 10**7 + 1000))
    finally:
        rows.agent.close()


@pytest.mark.kernel("tp_btf")
def test_hook_counts_what_this_process_does(kernel_rows: KernelRows) -> None:
    """A real tracepoint: each write(2) of this process is one more in its row."""
    shape = CALLS.shape
    table = Table(map_table(kernel_rows.agent.table_fds["calls"], shape), shape)
    key = {"pid": os.getpid(), "kind": 1, "name": list(b"write\0")}
    read, write = os.pipe()
    os.write(write, b"x")
    row = table.find(**key)
    assert row is not None
    before = int(row["calls"][0])
    for _ in range(1000):
        os.write(write, b"x")
    os.close(read)
    os.close(write)
    # Other threads of the tests may write, too.
    assert 1000 <= int(row["calls"][0]) - before < 1100


@pytest.mark.kernel("tp_btf")
def test_kernel_finds_the_same_buckets_as_python(kernel_rows: KernelRows) -> None:
    choose = np.random.default_rng(1)
    values = [1 << power for power in range(64)] + [(1 << power) + 1 for power in range(63)]
    values += [int(word) >> int(shift) for word, shift in zip(
        choose.integers(0, 1 << 64, 384, np.uint64), choose.integers(0, 64, 384), strict=True
    )]  # fmt: skip
    values += [0]
    for at in range(0, len(values), 8):
        work = np.zeros((), BUCKETS)
        work["value"][: len(values[at : at + 8])] = values[at : at + 8]
        found = np.frombuffer(kernel_rows.agent.own.run("rows_bucket", work.tobytes()), BUCKETS)[0]
        assert found["fine"].tolist() == [bucket_of(int(v), 5, 0, 15) for v in work["value"]]
        assert found["log2"].tolist() == [bucket_of(int(v), 0, 4, 63) for v in work["value"]]


@pytest.mark.kernel("tp_btf")
def test_table_goes_on_when_the_agent_is_upgraded(
    kernel_rows: KernelRows, rows_object: Path
) -> None:
    kernel_rows.update(first=7, keys=1, turns=5)
    table = rows_part(rows=1024)
    kernel_rows.agent.upgrade(
        rows_object, tables=[table.shape, CALLS.shape], hooks={"rows_on_call": "sys_enter"}
    )
    again = Table(map_table(kernel_rows.agent.table_fds["rows"], table.shape), table.shape)
    kernel_rows.update(first=7, keys=1, turns=1)
    row = again.find(number=7)
    assert row is not None
    assert int(row["count"][0]) == 6


@pytest.mark.kernel("tp_btf")
def test_table_of_another_size_begins_anew_when_the_agent_is_upgraded(
    kernel_rows: KernelRows, rows_object: Path
) -> None:
    kernel_rows.update(first=7, keys=1, turns=5)
    table = rows_part(rows=32)
    kernel_rows.agent.upgrade(
        rows_object, tables=[table.shape, CALLS.shape], hooks={"rows_on_call": "sys_enter"}
    )
    again = Table(map_table(kernel_rows.agent.table_fds["rows"], table.shape), table.shape)
    assert len(again) == 0


@pytest.mark.kernel("tp_btf")
@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ([CALLS], "the object has a table rows, and the manifest has none"),
        ([rows_part(), CALLS, part(**named("more"), rows=1, key=[named("x", type="u8")],
          column=[named("y", kind="gauge")])], "the manifest has a table more, and the object"),
        ([CALLS, part(**named("rows"), rows=1, key=[named("number", type="u64")],
          column=[named("y", kind="gauge")])], "a row of table rows has .* bytes in rows.bpf.o"),
    ],
)  # fmt: skip
def test_tables_that_manifest_and_object_do_not_share_are_refused(
    rows_object: Path, tables: list[TablePart], why: str
) -> None:
    with pytest.raises(BpfError, match=why):
        BpfAgent(rows_object, tables=[table.shape for table in tables])


@pytest.mark.kernel("tp_btf")
def test_table_outlives_its_owner(root: Path, rows_object: Path) -> None:
    core = Core.open(root)
    try:
        slot = core.register("rows@x", "rows", "detector")
        rows = KernelRows(rows_object, rows_part(), core=core, slot=slot)
        rows.agent.pin(core.folder("rows@x"))
        rows.update(first=7, keys=1, turns=5)
        rows.agent.release()
        rows.agent = BpfAgent.adopt(core.folder("rows@x"), core=core, slot=slot)
        try:
            rows.update(first=7, keys=1, turns=1)
            shape = rows_part().shape
            row = Table(map_table(rows.agent.table_fds["rows"], shape), shape).find(number=7)
            assert row is not None
            assert int(row["count"][0]) == 6
        finally:
            rows.agent.close()
    finally:
        core.close()


# Simulated: any order of updates, leavings and ticks.

steps = st.lists(
    st.tuples(st.sampled_from(["update", "leave", "tick"]), st.integers(0, 9), st.integers(1, 60)),
    max_size=200,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.sampled_from([None, 1.0]))
def test_table_keeps_its_word_in_any_order(
    taken: list[tuple[str, int, int]], evict_after_s: float | None
) -> None:
    """No key twice; no count of another key's; as many rows as there are, and no more."""
    table = rows_part(rows=5, evict_after_s=evict_after_s)
    agent = SimAgent(realtime=False, now_ns=10**9, tables=[table.shape])
    agent.start()
    reader = Table(map_table(agent.table_fds["rows"], table.shape), table.shape)
    now, refused = 10**9, 0
    counts: dict[int, int] = {}
    try:
        for act, key, amount in taken:
            before = set(keys_in(reader))
            if act == "update":
                row = agent.row("rows", number=key)
                refused += row is None
                if row is not None:
                    counts[key] = counts.get(key, 0) + 1 if key in before else 1
                    row["count"] += 1
            elif act == "leave":
                agent.leave("rows", number=key)
                assert key not in keys_in(reader)
            else:
                now += amount * 20_000_000
                agent.step(now)
            held = reader.copy()
            keys = held["key"]["number"].tolist()
            assert len(set(keys)) == len(keys) == reader.fill().used <= 5
            for number, count in zip(keys, held["count"].tolist(), strict=True):
                assert count == counts[number]
        assert reader.fill().refused == refused
    finally:
        agent.close()
