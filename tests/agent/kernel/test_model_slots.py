# SPDX-License-Identifier: Apache-2.0
"""Model slots: what is deployed decides, what does not belong is refused, on both backends."""

from pathlib import Path

import numpy as np
import pytest
from agents import compile_bpf

from kmind.abi.btf import Btf
from kmind.agent.kernel import model_slots
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.kernel.shared_memory import ENVIRONMENT
from kmind.agent.sim.agent import SimAgent
from kmind.agent.types import ModelUse
from kmind.errors import ModelError
from kmind.infer.features import Feature, schema_hash
from kmind.infer.integer import IntTrees
from kmind.infer.integer_parts import Input, Output
from kmind.infer.packing import _network as _pack_network
from kmind.infer.packing import _trees as _pack_trees
from kmind.infer.packing import pack
from kmind.infer.packing.slot import INPUT, STEP, slot_bytes

DECIDES = Path(__file__).parents[1] / "decides.bpf.c"
ASKED = np.dtype([("x", "<i8", (3,)), ("label", "<i8"), ("score", "<i8"), ("version", "<u8")])
SCHEMA = schema_hash([Feature("depth"), Feature("latency", "ns"), Feature("bytes", "bytes")])
OTHER = schema_hash([Feature("depth"), Feature("latency", "us"), Feature("bytes", "bytes")])


def stump(threshold, features=3, leaves=(-7, 9)):
    """One tree: is feature 1 above a threshold?"""
    columns = {name: np.zeros(3, np.int32) for name in ("feature", "threshold", "left", "right")}
    columns["feature"][:] = (1, -1, -1)
    columns["threshold"][0] = threshold
    columns["left"][:] = (1, 0, 1)
    columns["right"][0] = 2
    wide = np.full(features, 1 << 31)
    return IntTrees(
        input=Input(
            lo=-wide,
            hi=wide - 1,
            offset=0 * wide,
            round=0 * wide,
            mul=np.ones(features, np.int32),
            shift=np.zeros(features, np.int32),
        ),
        root=np.zeros(1, np.int32),
        output_of=np.zeros(1, np.int32),
        leaf=np.array(leaves, np.int32)[:, None],
        base=np.zeros(1, np.int64),
        output=Output("threshold"),
        **columns,
    )


def slot(threshold, schema=SCHEMA, **words):
    return slot_bytes(stump(threshold, **words), schema)


class Asked:
    """Either backend, and how to ask it for a decision: (version, label, score)."""

    def __init__(self, agent, ask):
        self.agent, self.ask = agent, ask


def _ask_kernel(agent):
    def ask(*x):
        args = np.zeros((), ASKED)
        args["x"] = x
        done = np.frombuffer(agent.own.run("decide", args.tobytes()), ASKED)[0]
        return tuple(int(done[name]) for name in ("version", "label", "score"))

    return ask


def _ask_sim(agent):
    def ask(*x):
        said = agent.models.decide(np.array([x], np.int64))
        if said is None:
            return 0, 0, 0
        version = next(each["version"] for each in agent.models.slots() if each["active"])
        return version, int(said.label[0]), int(said.score[0, 0])

    return ask


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_bpf(DECIDES, tmp_path_factory.mktemp("models") / "decides.bpf.o")


@pytest.fixture(
    params=[
        "sim",
        pytest.param("arena", marks=pytest.mark.kernel("arena", "syscall")),
        pytest.param("array", marks=pytest.mark.kernel("syscall")),
    ]
)
def asked(request, monkeypatch):
    use = ModelUse(SCHEMA, 2000)
    if request.param == "sim":
        agent = SimAgent(realtime=False, model=use)
        made = Asked(agent, _ask_sim(agent))
    else:
        monkeypatch.setenv(ENVIRONMENT, request.param)
        agent = BpfAgent(request.getfixturevalue("compiled"), model=use)
        made = Asked(agent, _ask_kernel(agent))
    yield made
    agent.close()


def test_nothing_decides_before_a_model_is_deployed(asked):
    assert asked.ask(1, 2, 3) == (0, 0, 0)
    assert asked.agent.models.slots() == []
    with pytest.raises(ModelError, match="no earlier model"):
        asked.agent.models.rollback()


def test_a_model_decides_from_then_on_and_the_one_before_can_come_back(asked):
    assert asked.agent.models.deploy(slot(100)) == 1
    assert asked.ask(0, 100, 0) == (1, 0, -7)
    assert asked.ask(0, 101, 0) == (1, 1, 9)
    with pytest.raises(ModelError, match="no earlier model"):
        asked.agent.models.rollback()
    assert asked.agent.models.deploy(slot(200)) == 2
    assert asked.ask(0, 101, 0) == (2, 0, -7)
    assert [(each["slot"], each["active"]) for each in asked.agent.models.slots()] == [
        (0, False),
        (1, True),
    ]
    assert asked.agent.models.rollback() == 1
    assert asked.ask(0, 101, 0) == (1, 1, 9)
    assert asked.agent.models.rollback() == 2
    assert asked.agent.models.deploy(slot(300)) == 3
    assert asked.ask(0, 301, 0) == (3, 1, 9)
    assert [each["version"] for each in asked.agent.models.slots()] == [3, 2]


@pytest.mark.parametrize("end", [1 << 40, -(1 << 63), (1 << 63) - 1, 101, 100])
def test_numbers_of_any_size_are_compared_rightly(asked, end):
    asked.agent.models.deploy(slot(100))
    assert asked.ask(end, end, end)[1] == (end > 100)


def test_what_a_model_is_can_be_told(asked):
    packed = slot(5)
    asked.agent.models.deploy(packed)
    (told,) = asked.agent.models.slots()
    assert told["hash"] == packed[16:48].hex()
    assert told["schema"] == SCHEMA.hex()
    assert told["version"] == 1
    assert 0 < told["estimate_ns"] < 2000


@pytest.mark.parametrize(
    ("packed", "cause"),
    [
        (slot(9, OTHER), "features differ from the agent's"),
        (slot(9)[:-8], "damaged"),
        (slot(9)[:250] + b"\xff" + slot(9)[251:], "damaged"),
        (b"", "damaged"),
    ],
)
def test_what_does_not_belong_is_refused_and_the_one_before_decides_on(asked, packed, cause):
    asked.agent.models.deploy(slot(100))
    with pytest.raises(ModelError, match=cause):
        asked.agent.models.deploy(packed)
    assert asked.ask(0, 101, 0) == (1, 1, 9)
    assert [each["active"] for each in asked.agent.models.slots()].count(True) == 1


def test_a_model_over_the_budget_is_refused(asked):
    asked.agent.models.deploy(slot(100))
    whole = stump(1)
    many = 1000
    nodes = {
        name: np.concatenate([
            getattr(whole, name) + (3 * tree if name in ("left", "right") else 0) * (
                whole.feature >= 0
            ) + (2 * tree if name == "left" else 0) * (whole.feature < 0)
            for tree in range(many)
        ]).astype(np.int32)
        for name in ("feature", "threshold", "left", "right")
    }  # fmt: skip
    forest = IntTrees(
        input=whole.input,
        root=np.arange(many, dtype=np.int32) * 3,
        output_of=np.zeros(many, np.int32),
        leaf=np.tile(whole.leaf, (many, 1)),
        base=whole.base,
        output=whole.output,
        **nodes,
    )
    with pytest.raises(ModelError, match="budget"):
        asked.agent.models.deploy(slot_bytes(forest, SCHEMA))
    assert asked.ask(0, 101, 0) == (1, 1, 9)


@pytest.mark.kernel("syscall")
def test_a_model_of_another_number_of_features_is_refused_by_the_kernel(compiled):
    agent = BpfAgent(compiled, model=ModelUse(SCHEMA, 2000))
    try:
        with pytest.raises(ModelError, match="number of features"):
            agent.models.deploy(slot(1, features=2))
        assert agent.models.slots() == []
    finally:
        agent.close()


@pytest.mark.kernel("syscall")
def test_an_agent_that_was_given_no_schema_takes_no_model(compiled):
    agent = BpfAgent(compiled)
    try:
        with pytest.raises(ModelError, match="features differ from the agent's"):
            agent.models.deploy(slot(1, bytes(32)))
    finally:
        agent.close()


@pytest.mark.kernel("syscall")
def test_what_was_changed_in_a_slot_is_not_activated(compiled):
    agent = BpfAgent(compiled, model=ModelUse(SCHEMA, 2000))
    try:
        agent.models.deploy(slot(100))
        agent.models.deploy(slot(200))
        key = bytes(4)
        models = agent._generation.maps["km_models"]
        held = bytearray(models.lookup(key))
        held[pack.IMAGE.itemsize] ^= 1
        models.update(key, bytes(held))
        with pytest.raises(ModelError, match="differs from what was written"):
            agent.models.rollback()
        assert _ask_kernel(agent)(0, 150, 0) == (2, 0, -7)
    finally:
        agent.close()


@pytest.mark.kernel("syscall")
def test_a_decision_without_room_is_missed_and_counted(compiled):
    agent = BpfAgent(compiled, model=ModelUse(SCHEMA, 2000))
    try:
        agent.models.deploy(slot(100))
        args = np.zeros((), ASKED).tobytes()
        assert np.frombuffer(agent.own.run("crowd", args), ASKED)[0]["version"] == 1
        assert _ask_kernel(agent)(0, 101, 0)[0] == 1
        control = np.zeros((), model_slots.CONTROL).tobytes()
        after = np.frombuffer(agent.own.run("km_model", control), model_slots.CONTROL)[0]
        assert after["missed"] == 1
    finally:
        agent.close()


def test_an_agent_without_slots_says_so():
    agent = SimAgent(realtime=False)
    try:
        with pytest.raises(ModelError, match="uses no models"):
            agent.models.deploy(slot(1))
        assert agent.models.slots() == []
        assert agent.models.decide(np.zeros((1, 3), np.int64)) is None
    finally:
        agent.close()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("km_step", STEP),
        ("km_input", INPUT),
        ("km_image", pack.IMAGE),
        ("km_layer", _pack_network.LAYER),
        ("km_trees", _pack_trees.TREES),
        ("km_tree_group", _pack_trees.GROUP),
        ("km_tree_node", _pack_trees.NODE),
        ("km_exact", _pack_trees.EXACT),
        ("km_exact_tree", _pack_trees.EXACT_TREE),
        ("km_model_control", model_slots.CONTROL),
        ("km_model_trial", model_slots.TRIAL),
        ("km_model_answer", model_slots.ANSWER),
    ],
)
def test_records_lie_as_the_c_has_them(name, dtype, compiled):
    record = Btf.from_elf(compiled).struct(name)
    told = {member.name: member.offset for member in record.members}
    assert told == {each: place[1] for each, place in dtype.fields.items()}
    assert record.size == dtype.itemsize
