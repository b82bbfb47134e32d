# SPDX-License-Identifier: Apache-2.0
"""An extension that writes whatever it likes into the shared memory, while the agent works."""

import contextlib
import mmap
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import BARE, BareAgent, compile_bpf, header_of, recommendation, sleep_on, write_slot

from kmind.abi import layout
from kmind.agent.types import Action, Grant, Mode, Verdict
from kmind.bpf import Arena, map_arena
from kmind.queue import Doorbell, Endpoint, Reader

pytestmark = [pytest.mark.kernel("bpf_timer", "syscall"), pytest.mark.fault]

KIND = layout.KIND["MODULE"]
SLOTS = layout.LIMIT["CQ_SLOTS"]
ROUNDS = 30_000
GRANT = Grant(minimum=40, maximum=4000, current=400, grid=4, step_percent=1000)
TROUBLE = re.compile(r"WARNING|BUG|Oops|lockup|hung|stall|general protection|bpf|arena", re.I)


def kernel_log() -> list[str]:
    shown = subprocess.run(["dmesg"], capture_output=True, text=True, check=True)
    return [line for line in shown.stdout.splitlines() if TROUBLE.search(line)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_bpf(BARE, tmp_path_factory.mktemp("bare") / "bare.bpf.o")


@pytest.fixture
def agent(bare: Path, each_shape: str) -> Iterator[BareAgent]:
    before = kernel_log()
    made = BareAgent(bare, sq_slots=64, tick_s=0.001, window_s=0.005, deadline_s=3600)
    made.admission.grant(1, 1, GRANT)
    made.admission.grant(2, 1, Grant(0, 5, 0, "enum", choices=0b100101))
    made.set_mode(Mode.AUTO)
    yield made
    made.close()
    assert [line for line in kernel_log() if line not in before] == []


@contextlib.contextmanager
def hooks(agent: BareAgent) -> Iterator[list[int]]:
    """Hooks on each CPU, as fast as they can, and now and then one interrupts another."""
    stop = threading.Event()
    turns = [0 for _ in os.sched_getaffinity(0)]

    def run(number: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})  # this thread's
        while not stop.is_set():
            agent.work(pushes=5, admits=2, kind=KIND, count=1)
            if turns[number] % 64 == 0 and number == 0:
                agent.interrupts(8)
            turns[number] += 1

    threads = [
        threading.Thread(target=run, args=each) for each in enumerate(os.sched_getaffinity(0))
    ]
    for thread in threads:
        thread.start()
    try:
        yield turns
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def map_again(agent: BareAgent) -> None:
    """A forked process does not have it: map it, where it was, for good."""
    arena = map_arena(agent.arena_fd, agent.arena_address, agent.arena_size // mmap.PAGESIZE)
    mapped.append(arena)


mapped: list[Arena] = []


def vandalise(agent: BareAgent, rounds: int, seed: int) -> None:
    """Act as the hostile process. It has the arena and the doorbell, and nothing else."""
    random_bytes = np.random.default_rng(seed)
    choose = random.Random(seed)
    map_again(agent)
    geometry, arena = agent.geometry, agent.arena
    header = header_of(agent)
    rings = arena[geometry.rings :][: (geometry.nr_cpus + 1) * layout.RING.itemsize]
    tails = rings.view(layout.RING)["tail"]
    queue = arena[geometry.cq :][: SLOTS * layout.RECOMMENDATION.itemsize]
    commits = queue.view(layout.RECOMMENDATION)["commit"]
    bell = Doorbell(agent.doorbell_fd)
    rec_id = 1
    for _ in range(rounds):
        match choose.randrange(8):
            case 0:
                arena[:] = random_bytes.integers(0, 256, len(arena), np.uint8)
            case 1:
                near = (int(header["cq_head"]) + choose.randrange(70)) % (1 << 32)
                header["cq_tail"] = choose.choice([near, choose.getrandbits(32)])
            case 2:
                tails[choose.randrange(len(tails))] = choose.getrandbits(32)
            case 3:
                header["need_wakeup"] = choose.getrandbits(32)
                bell._consumer[0] = choose.getrandbits(64)
            case 4:
                start = choose.randrange(layout.HEADER.itemsize)
                arena[start : layout.HEADER.itemsize] = choose.getrandbits(8)
            case 5:
                commits[:] = random_bytes.integers(0, 1 << 32, SLOTS, np.uint32)
            case _:
                # Well-formed ones too, or nothing would ever pass.
                for position in range(int(header["cq_tail"]), int(header["cq_tail"]) + 8):
                    entry = recommendation(
                        position % (1 << 32),
                        id=rec_id,
                        knob=choose.choice([1, 1, 2, 3]),
                        target=1,
                        value=choose.randrange(-8, 5000),
                        type=choose.choice([1, 2]),
                        expires_ns=choose.choice([0, 1 << 63]),
                        hold_ms=choose.getrandbits(32),
                        note=choose.getrandbits(32),
                    )
                    rec_id += choose.randrange(2)
                    write_slot(arena, geometry, position % (1 << 32), entry)


@contextlib.contextmanager
def process(work: Any, *arguments: Any) -> Iterator[int]:
    """A forked process that does something, and is ended with the block."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(*arguments)
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def check(actions: list[Action]) -> int:
    """No value outside of its grant was approved; how many were."""
    approved = [a for a in actions if a.kind == "verdict" and a.verdict == Verdict["APPROVED"]]
    for action in approved:
        assert action.target == 1
        if action.knob == 1:
            assert GRANT.minimum <= action.value <= GRANT.maximum
            assert action.value % GRANT.grid == 0
            assert action.value <= action.current * 10
            assert action.current <= action.value * 10
        else:
            assert action.knob == 2
            assert action.value in (0, 2, 5)
        assert action.mode == Mode.AUTO
        assert len(action.note) <= layout.LIMIT["NOTE_SIZE"]
    return len(approved)


def restore(agent: BareAgent) -> Endpoint:
    """Return a new, sane extension's endpoint, as far as the extension controls it."""
    for _ in range(3):  # interrupts on their way, and the queue's rest
        agent.work(pushes=1, admits=SLOTS + 1)
        time.sleep(0.01)
    agent.geometry.write_header(agent.arena)
    header = header_of(agent)
    header["cq_tail"] = header["cq_head"]
    agent.work(pushes=1, admits=SLOTS + 1)
    time.sleep(0.01)
    header["cq_tail"] = header["cq_head"]
    rings = agent.arena[agent.geometry.rings :][: (agent.geometry.nr_cpus + 1) * 128]
    rings.view(layout.RING)["tail"] = rings.view(layout.RING)["head"]
    header["need_wakeup"] = 0
    bell = Doorbell(agent.doorbell_fd)
    bell.drain()
    return Endpoint(agent.arena, bell)


def works(agent: BareAgent, endpoint: Endpoint) -> None:
    """Records, windows, the doorbell and admission are as they should be."""
    agent.poll(0)
    for ring in [*endpoint.records, endpoint.windows]:
        while len(batch := ring.peek()):
            ring.release(len(batch))
    timer = threading.Timer(0.05, lambda: agent.work(pushes=20, kind=77, value=1000))
    timer.start()
    seen: list[int] = []
    windows = 0
    while len(seen) < 20 or windows < 3:
        sleep_on(endpoint)
        for ring in endpoint.records:
            batch = ring.peek()
            seen += batch["value"][batch["kind"] == 77].tolist()
            ring.release(len(batch))
        windows += len(endpoint.windows.peek())
        endpoint.windows.release(len(endpoint.windows.peek()))
    timer.join()
    assert seen == list(range(1000, 1020))
    position = int(header_of(agent)["cq_head"])
    for offset, value, verdict in ((0, 401, "GRID"), (1, 4004, "RANGE")):
        entry = recommendation(
            position + offset,
            id=(1 << 32) - 3 + offset,
            knob=1,
            target=1,
            value=value,
            type=1,
            expires_ns=1 << 63,
        )
        write_slot(agent.arena, agent.geometry, position + offset, entry)
        (action,) = agent.poll(60)
        assert action.verdict == Verdict[verdict]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_agent_survives_a_hostile_process(agent: BareAgent, seed: int) -> None:
    agent.start()
    last: dict[str, int] = {}
    approved = 0
    with hooks(agent) as turns, process(vandalise, agent, ROUNDS, seed) as pid:
        while (status := ended(pid)) is None:
            approved += check(agent.poll(0.01))
            account = dict(agent.account())
            for name, count in last.items():
                assert account[name] >= count, name
            last = account
        assert status == 0
    approved += check(agent.poll(0))
    account = dict(agent.account())
    assert account["verdict_approved"] == approved > 0
    for name in ("torn", "expired", "replayed", "range", "unknown"):
        assert account[f"verdict_{name}"] > 0, name
    assert account["bad_tail"] > 0
    assert min(turns) > 0
    ticks = account["ticks"]
    works(agent, restore(agent))
    assert agent.account()["ticks"] > ticks


def test_an_entry_that_changes_while_it_is_read(agent: BareAgent) -> None:
    """Another thread swaps good and bad values under the agent's eyes: none gets through."""
    header, rounds = header_of(agent), 4000

    def swap() -> None:
        map_again(agent)
        words = {"knob": 1, "target": 1, "type": 1, "expires_ns": 1 << 63}
        start, size = agent.geometry.cq, layout.RECOMMENDATION.itemsize
        while True:
            head = int(header["cq_head"])
            slot = agent.arena[start + head % SLOTS * size :][:size]
            good = recommendation(head, id=head + 1, value=400 + head % 2 * 4, **words)
            bad = recommendation(head, id=head + 1, value=4004, **words)
            pair = [np.frombuffer(each.tobytes()[:56], np.uint64) for each in (good, bad)]
            target = slot[:56].view(np.uint64)
            for turn in range(20):
                target[:] = pair[turn % 2]
                target[2] = pair[(turn + 1) % 2][2]
                target[:] = pair[turn % 2]

    approved = 0
    with process(swap):
        for position in range(rounds):
            header["cq_tail"] = position + 1
            agent.work(admits=1)
            assert header["cq_head"] == position + 1
            if position % 100 == 99:
                approved += check(agent.poll(0))
    account = agent.account()
    assert account["verdict_approved"] == approved
    assert account["verdict_torn"] > 0
    assert sum(n for name, n in account.items() if name.startswith("verdict_")) == rounds


def test_producers_that_interrupt_each_other(agent: BareAgent) -> None:
    """Interrupts push in the middle of other pushes, on both CPUs, and nothing is mixed up."""
    endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
    seen: dict[int, list[Any]] = {ring: [] for ring in range(len(endpoint.records))}

    def drain() -> None:
        for number, ring in enumerate(endpoint.records):
            while len(batch := ring.peek()):
                seen[number].append(batch.copy())
                ring.release(len(batch))

    before = agent.account()  # one record says the mode
    with hooks(agent) as turns:
        while min(turns) < 3000:
            drain()
    time.sleep(0.01)  # the last interrupts
    for cpu in os.sched_getaffinity(0):
        drain()
        _one_record_on(agent, cpu)
    drain()
    account = agent.account()
    readers: list[Reader] = endpoint.records
    assert before["dropped"] == 0
    assert sum(reader.lost for reader in readers) == account["dropped"]
    assert sum(reader.reordered for reader in readers) == 0
    interrupts = 0
    for number, batches in seen.items():
        if not batches:
            continue
        records = np.concatenate(batches)
        assert (records["cpu"] == number).all()
        assert (np.diff(records["seq"].astype(np.int64)) > 0).all()
        assert set(records["kind"]) <= {1, KIND, 66}
        interrupts += int((records["kind"] == 66).sum())
    assert interrupts > 0
    assert sum(len(b) for batches in seen.values() for b in batches) == account["pushed"]


def _one_record_on(agent: BareAgent, cpu: int) -> None:
    # What was dropped shows with the next record of that ring.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    agent.work(pushes=1, kind=KIND)
    os.sched_setaffinity(0, before)


def test_a_producer_in_another_process_loses_nothing(agent: BareAgent) -> None:
    """A reader that sleeps whenever there is nothing is woken for each burst."""

    def produce() -> None:
        choose = random.Random(3)
        for number in range(1500):
            agent.work(pushes=1, kind=KIND, value=number)
            time.sleep(choose.random() * 0.0005)

    endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
    agent.start()
    seen: list[int] = []
    with process(produce):
        while len(seen) < 1500:
            sleep_on(endpoint)
            for ring in [*endpoint.records, endpoint.windows]:
                batch = ring.peek()
                if ring is not endpoint.windows:
                    seen += batch["value"][batch["kind"] == KIND].tolist()
                ring.release(len(batch))
    assert sorted(seen) == list(range(1500))
    assert agent.account()["dropped"] == 0
    assert agent.account()["wakeups"] > 0
