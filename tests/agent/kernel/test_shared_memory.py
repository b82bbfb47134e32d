# SPDX-License-Identifier: Apache-2.0
"""The memory that agent and extension share: an arena, or an array map in its place."""

import os
from pathlib import Path

import pytest
from agents import BARE, BareAgent, compile_bpf

from kmind.agent.kernel import shared_memory
from kmind.agent.kernel.shared_memory import (
    ENVIRONMENT,
    choose_shape,
    object_of,
    plan_arena,
    shape_of,
)
from kmind.agent.types import Shape
from kmind.bpf.probe import Probe, probe
from kmind.errors import NotSupportedError, UsageError
from kmind.queue import Doorbell, Endpoint, Geometry

NEEDS = ("libbpf", "bpf_timer", "syscall")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_bpf(BARE, tmp_path_factory.mktemp("shapes") / "bare.bpf.o")


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.mark.parametrize("lacking", ["", "arena", "arena_atomics"])
def test_a_kernel_without_arenas_gets_an_array(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(name: str) -> Probe:
        return Probe(name, "missing" if name == lacking else "ok", "it has none", "", False)

    monkeypatch.setattr(shared_memory, "probe", answer)
    shared_memory._no_arenas.cache_clear()
    try:
        assert choose_shape() is (Shape.ARRAY if lacking else Shape.ARENA)
        monkeypatch.setenv(ENVIRONMENT, "array")
        assert choose_shape() is Shape.ARRAY
        monkeypatch.setenv(ENVIRONMENT, "arena")
        if lacking:
            with pytest.raises(NotSupportedError, match="no arenas: it has none; unset it, or set"):
                choose_shape()
        else:
            assert choose_shape() is Shape.ARENA
    finally:
        shared_memory._no_arenas.cache_clear()


def test_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "hugepage")
    with pytest.raises(UsageError, match=r"'hugepage', which is no kind .* arena or array"):
        choose_shape()


def test_an_object_without_a_twin_says_how_to_make_it(tmp_path: Path) -> None:
    made = tmp_path / "own.bpf.o"
    assert object_of(made, Shape.ARRAY) == made  # whoever reads it says that it is not there
    made.touch()
    assert object_of(made, Shape.ARENA) == made
    with pytest.raises(NotSupportedError, match=r"-DKM_SHARED_ARRAY, as own\.array\.bpf\.o"):
        object_of(made, Shape.ARRAY)
    twin = tmp_path / "own.array.bpf.o"
    twin.touch()
    assert object_of(made, Shape.ARRAY) == twin


@pytest.mark.kernel(*NEEDS)
def test_records_and_windows_come_in_either_shape(
    bare: Path, each_shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Shape(each_shape)
    agent = BareAgent(bare, sq_slots=64, deadline_s=3600)
    try:
        assert shape_of(agent._generation.maps["km_arena"]) is shape
        before = os.sched_getaffinity(0)
        cpu = min(before)
        os.sched_setaffinity(0, {cpu})
        try:
            assert agent.work(pushes=70, kind=65, value=7) == 64  # no room for six of them
        finally:
            os.sched_setaffinity(0, before)
        ring = Endpoint(agent.arena, Doorbell(agent.doorbell_fd)).records[cpu]
        rows = ring.peek()
        assert len(rows) == 64
        assert rows["value"].tolist() == list(range(7, 71))
        ring.release(len(rows))
        # The next generation has the shape of the one that works, whatever is asked now.
        monkeypatch.setenv(ENVIRONMENT, "array" if shape is Shape.ARENA else "arena")
        agent.upgrade(bare)
        assert shape_of(agent._generation.maps["km_arena"]) is shape
        assert agent.work(pushes=1) == 1
    finally:
        agent.close()


@pytest.mark.kernel(*NEEDS)
@pytest.mark.usefixtures("each_shape")
def test_a_process_that_is_forked_does_not_have_it(bare: Path) -> None:
    agent = BareAgent(bare, sq_slots=64, deadline_s=3600)
    place = f"{agent.arena_address:x}-"
    try:
        assert place in Path("/proc/self/maps").read_text()
        ours, theirs = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(theirs, str(int(place in Path("/proc/self/maps").read_text())).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(ours, 1) == b"0"
        os.close(ours)
        os.close(theirs)
    finally:
        agent.close()


@pytest.mark.parametrize("cpus", [1, 2, 64, 255])
def test_an_array_is_never_larger_than_the_kernel_makes_one(cpus: int) -> None:
    geometry = plan_arena(Shape.ARRAY, cpus, 8192)
    assert geometry.size <= 4 << 20
    assert geometry.sq_slots >= 64
    assert plan_arena(Shape.ARENA, cpus, 8192) == Geometry.plan(cpus, 8192)


def test_15_cpus_have_all_their_records_in_an_array() -> None:
    """`kmind doctor` names that number."""
    fits, too_many = (plan_arena(Shape.ARRAY, cpus, 8192).sq_slots for cpus in (15, 16))
    assert (fits, too_many) == (8192, 4096)
    assert "more than 15 CPUs" in probe("arena").costs
