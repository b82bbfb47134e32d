# SPDX-License-Identifier: Apache-2.0
"""Any bytes give each reader of foreign text a value, or a KmindError: never anything else.

The bytes are random, or a good file into which something hostile was put: numbers of 5,000
digits, 3,000 brackets, control characters. Errors are one line that a terminal can show.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmind.agent.codec import pack_grant
from kmind.agent.types import Grant
from kmind.cli.client import _decoded
from kmind.errors import KmindError
from kmind.extension import find_module, parse_parameters
from kmind.extension.discovery.conf import ModuleConf
from kmind.extension.manifest.alias import Alias
from kmind.extension.manifest.manifest import load_manifest
from kmind.guard import Policy
from kmind.infer.features import Feature
from kmind.infer.importers.boosters import from_xgboost
from kmind.infer.importers.onnx import from_onnx
from kmind.infer.model_file import ModelFile
from kmind.infer.table import read_table
from kmind.knobs import all_knobs, parse_target
from kmind.knobs._target import Target
from kmind.learn.recording import open_recordings
from kmind.runtime.instance.extension.checkpoint import _unfit
from kmind.runtime.instance.notes import parse_note, parse_status
from kmind.runtime.objective.number import parse_number
from kmind.runtime.objective.prometheus import _value
from kmind.runtime.supervisor.devices.uevent import parse_uevent
from kmind.runtime.supervisor.devices.unwanted import Unwanted
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.serve.api import _body
from kmind.serve.schema import LoadRequest
from kmind.testing.models import random_model
from kmind.testing.recordings import made_windows, write_recording

MODULE = find_module("readahead")
FOREST = Path(__file__).parent / "infer/cases/onnx-forest-10/forest.onnx"
POLICY = b"""
on_daemon_death = "keep"
forbidden = ["vm.swappiness"]
[defaults]
rate = "10 per minute"
[knob."block.read_ahead_kb"]
min = 16
max = 4096
max_step_factor = 2.0
[knob."vm.dirty_ratio@system"]
unsafe = true
max = 50
[[rule]]
knob = "vm.dirty_background_ratio"
op = "<"
other = "vm.dirty_ratio"
offset = 3
"""
CONF = b"""# a comment
alias block:vd* readahead
options readahead min_kb=16 mode=observe
blacklist dirty
autoload readahead vda min_kb=4
"""
ANSWER = b'{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"2.5"]}]}}'
HOSTILE = (
    b"9" * 5000,
    b"-" + b"9" * 400,
    b"0x" + b"f" * 5000,
    b"[" * 3000,
    b"{" * 3000,
    b'{"a":' * 3000,
    b"x = " + b"[" * 3000 + b"]" * 3000,
    b"a." * 3000 + b"b = 1\n",
    b"1e999",
    b"nan",
    b"-inf",
    b"\x1b[2J\x07",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"',
    b"\n",
    b"\\",
    b"1979-05-27T07:32:00Z",
)


def policy(path: Path) -> object:
    """A policy that is taken can be granted, for each knob."""
    found = Policy.load(path)
    for knob in all_knobs():
        target = Target("system" if knob.target == "system" else knob.target, "vda", 1, path.parent)
        try:
            bound = found.bound(knob, target)
        except KmindError:
            continue
        words = {"grid": bound.grid, "step": bound.step, "choices": bound.choices}
        words |= {"interval_ns": bound.interval_ns, "burst": bound.burst, "hold_ms": bound.hold_ms}
        words["step_percent"] = bound.step_factor_percent
        pack_grant(Grant(bound.minimum, bound.maximum, 0, **words))
    return found


def of_bytes(read: Callable[[bytes], object]) -> Callable[[Path], object]:
    return lambda path: read(path.read_bytes())


def of_text(read: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda path: read(path.read_bytes().decode("utf-8", "replace"))


def knob_values(text: str) -> object:
    return [each.parse(text) for each in all_knobs() if each.kind == "int"]


def recording(path: Path) -> object:
    return [[list(each.windows()), list(each.records())] for each in open_recordings(path)]


def beside(path: Path) -> object:
    whole = path.with_name("whole")
    if not whole.exists():
        write_recording(whole, MODULE, made_windows(np.zeros((3, len(MODULE.manifest.features)))))
    for name in ("outcome.csv", "phases.csv"):
        (whole / name).write_bytes(path.read_bytes())
    (found,) = open_recordings(whole)
    results = []
    for read in (found.outcome, found.phases):
        try:
            results.append(read())
        except KmindError as error:
            results.append(error)
    return results


def model() -> bytes:
    model = random_model(np.random.default_rng(4))
    labels = {"value": 0, "threshold": 2, "argmax": model.outputs}[model.output.kind]
    features = tuple(Feature(f"f{n}", "ns", 0.5) for n in range(len(model.input)))
    return ModelFile(model, features, tuple(f"c{n}" for n in range(labels))).to_bytes()


def table() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"a": [1.0, 2.0], "b": ["x", None]}), sink)
    return bytes(sink.getvalue())


def recorded(tmp: Path, suffix: str) -> bytes:
    values = np.zeros((9, len(MODULE.manifest.features)))
    found = write_recording(tmp / f"one{suffix}", MODULE, made_windows(values))
    return found.paths[0].read_bytes()


def streamed(tmp: Path) -> bytes:
    (path,) = tmp.glob("*.parquet")
    table, sink = parquet.read_table(path), pa.BufferOutputStream()
    with ipc.new_stream(
        sink, table.schema, options=ipc.IpcWriteOptions(compression="zstd")
    ) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "policy": (".toml", POLICY, policy),
    "manifest": ("module.toml", (MODULE.folder / "module.toml").read_bytes(), load_manifest),
    "modules.d": (".conf", CONF, lambda path: ModuleConf.load([path.parent])),
    "table, CSV": (".csv", b"a,b\n1,2\n3,4\n", read_table),
    "table, Parquet": (".parquet", b"", read_table),
    "recording": (".parquet", b"", recording),
    "recording, open": (".arrows", b"", recording),
    "files beside a recording": (".csv", b"start_ns,end_ns,per_s\n1,2,3.5\n", beside),
    "model file": (".kmodel", b"", of_bytes(ModelFile.from_bytes)),
    "XGBoost": (
        ".json",
        b'{"learner":{"feature_names":["a"],"gradient_booster":{"name":"gblinear"}}}',
        from_xgboost,
    ),
    "ONNX": (".onnx", b"", from_onnx),
    "Prometheus": (".json", ANSWER, of_text(_value)),
    "number": ("", b" 12.5\n", of_text(parse_number)),
    "note": ("", b'{"reason":"r","evidence":{"a":1}}', of_bytes(parse_note)),
    "status": ("", b'{"a":1}', of_bytes(parse_status)),
    "memory": ("", b'{"a":[1,2]}', of_bytes(_unfit)),
    "request": ("", b'{"module":"readahead"}', of_bytes(lambda data: _body(data, LoadRequest))),
    "answer": ("", b'{"instances":[]}', of_bytes(_decoded)),
    "unwanted": (".json", b'["readahead@vda"]', Unwanted),
    "state": ("a@b.json", b'{"name":"a@b"}', lambda path: StateFolder(path.parent).load()),
    "models": ("a@b.models", b"\x80", lambda path: StateFolder(path.parent).load_models("a@b")),
    "uevent": ("", b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0", of_bytes(parse_uevent)),
    "alias": ("", b"block:vd*", of_text(Alias.parse)),
    "target": ("", b"/dev/vda", of_text(parse_target)),
    "parameter": (
        "",
        b"128",
        of_text(lambda text: parse_parameters(MODULE.manifest, [f"stream_kb={text}"])),
    ),
    "knob's value": (
        "",
        b"128",
        of_text(lambda text: [each.parse(text) for each in all_knobs() if each.kind == "int"]),
    ),
}
WORDS = {"alias", "knob's value", "parameter", "target"}
RAISE_VALUE_ERROR = {"alias"}  # their callers make their own of it


def spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """The good bytes with something else in the place of a part of them."""
    part = st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=8))

    def join(at: int, length: int, new: bytes) -> bytes:
        return good[:at] + new + good[at + length :]

    put = st.builds(join, st.integers(0, len(good)), st.integers(0, 12), part)
    return st.one_of(put, st.binary(max_size=200), st.sampled_from(HOSTILE))


def place(name: str, tmp_path: Path) -> Path:
    suffix = READERS[name][0]
    return tmp_path / (suffix if "." in suffix[1:] else f"file{suffix}")


def said(name: str, path: Path) -> str | None:
    """The error that its reader raises, if it raises one that it may."""
    try:
        READERS[name][2](path)
    except KmindError as error:
        return str(error)
    except ValueError as error:
        if name not in RAISE_VALUE_ERROR:
            raise
        return str(error)
    return None


def check(name: str, path: Path) -> None:
    error = said(name, path)
    if error is None:
        return
    assert error.isprintable()
    # Words of a command line are shown as they came; the API bounds them.
    assert 0 < len(error) < 2000 or name in WORDS


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    tmp = tmp_path_factory.mktemp("goods")
    made = {name: good for name, (_, good, _) in READERS.items()}
    made |= {"table, Parquet": table(), "model file": model()}
    made["recording"] = recorded(tmp, ".parquet")
    made["recording, open"] = streamed(tmp)
    made["ONNX"] = FOREST.read_bytes()
    return made


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_give_a_value_or_a_kmind_error(
    name: str, goods: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    path = place(name, tmp_path)
    path.write_bytes(data.draw(spoilt(goods[name])))
    check(name, path)


@pytest.mark.parametrize("name", READERS.keys() - {"XGBoost", "target"})
def test_a_good_file_is_read(name: str, goods: dict[str, bytes], tmp_path: Path) -> None:
    path = place(name, tmp_path)
    path.write_bytes(goods[name])
    READERS[name][2](path)


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", READERS)
def test_each_hostile_text_by_itself(name: str, hostile: bytes, tmp_path: Path) -> None:
    path, good = place(name, tmp_path), READERS[name][1]
    for text in (hostile, b"a = " + hostile, good + hostile, b'{"a":' + hostile + b"}"):
        path.write_bytes(text)
        check(name, path)
