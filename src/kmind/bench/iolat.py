# SPDX-License-Identifier: Apache-2.0
"""Measure what predicting each request costs, and how often it is right.

Two streams are recorded from real devices and learnt from as `kmind train` does; the scores are of
their last 30%, which no model saw. ``bursts``: small reads all the time on the disk, and bursts of
large direct writes beside them. ``injected``: small reads from a loop device over a file on it,
whose reads a cgroup (v1, blkio) throttles by turns, for 0.2 to 1 s each: such slowness comes
at random, so nothing foretells its begin; then the queue tells, and what was done last.

The overhead is that of the agent's hooks, with the model of ``bursts`` deciding for each request
(scored, and abstaining or not as it finds): fio's random reads of 4 KiB, direct, depth 32, in turns
without, without again (A/A), and with it.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kmind.agent.types import Mode
from kmind.bench._options import DIR
from kmind.bench._results import Metric, describe_machine, interleaved
from kmind.command import Flag, Option
from kmind.errors import KmindError, NotSupportedError
from kmind.extension import find_module, parse_parameters
from kmind.infer.model_file import ModelFile
from kmind.knobs import Target
from kmind.learn.record import Recorder, plan_recording
from kmind.learn.train import load_recipe, read_data, train
from kmind.runtime.instance.agent_factory import make_bpf_agent, need_root
from kmind.workloads.disk import DEFAULT_DIR
from kmind.workloads.fio import FioJob, lay_out_file, run_fio
from kmind.workloads.host import device_of, find_tool, stop_process, under_limit

__all__ = ["OPTIONS", "SCHEMA", "run_iolat_bench"]

OPTIONS: tuple[Option | Flag, ...] = (DIR,)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.iolat/1"

_SIZE = 512 << 20
_RECORD_S, _QUICK_RECORD_S = 60.0, 15.0
_ROUNDS, _QUICK_ROUNDS = 8, 3
_OVERHEAD_S, _QUICK_OVERHEAD_S = 6.0, 3.0
_BLKIO = Path("/sys/fs/cgroup/blkio")
_BRAKED_IOPS = 100  # the kernel lets ten pass at once each 0.1 s: a queue of eight waits
_BASELINES = {
    "iolat_balanced_accuracy": "model",
    "always_most_frequent": "majority",
    "last_latency": "rule",
    "logistic": "logistic",
    "float": "float",
}

_Look = Callable[[], bool]


def run_iolat_bench(*, quick: bool = False, dir: Path = DEFAULT_DIR) -> dict[str, Any]:
    """Run the bench and return its result; ``dir`` is a folder on the disk.

    Raises PrivilegeError without root, NotSupportedError without fio.
    """
    need_root()
    file = lay_out_file(dir, _SIZE)
    disk = device_of(file)
    seconds = _QUICK_RECORD_S if quick else _RECORD_S
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine(disk)}
    loads, missing, models = [], {}, {}
    for name, learn in (("bursts", _bursts), ("injected", _injected)):
        try:
            model = models[name] = learn(file, seconds)
            loads.append({"load": name, **_scores(model)})
        except KmindError as error:
            missing[name] = str(error)
    if "bursts" in models:
        result |= _overhead(file, disk, models["bursts"], quick=quick)
    return {**result, "loads": loads, "missing": missing}


def _scores(model: ModelFile) -> dict[str, Any]:
    card = dict(model.card)
    later, notes = card["scores"]["later"], card["notes"]
    return {
        **{name: later[arm]["balanced_accuracy"]["value"] for name, arm in _BASELINES.items()},
        "iolat_quantisation_loss": float(model.quantisation["lost_points"]),
        "family": card["family"],
        "slow_us": notes["slow_us"],
        "slow_share": notes["trained_slow"] / 1000,
        "requests": notes["requests"],
    }


def _bursts(file: Path, seconds: float) -> ModelFile:
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix="bursts-") as written:
        argv = [
            *_fio(seconds),
            *("--name=reads", f"--filename={file}", f"--size={_SIZE}", "--rw=randread"),
            *("--bs=4k", "--iodepth=2", "--rate_iops=1000"),
            *("--name=writes", f"--filename={written.name}", f"--size={_SIZE // 2}"),
            *("--rw=write", "--bs=512k", "--iodepth=16"),
            *("--thinktime=400000", "--thinktime_blocks=64"),
        ]
        return _learn(device_of(file.parent), argv, seconds, lambda: False)


def _injected(file: Path, seconds: float) -> ModelFile:
    with _loop(file) as node, _braked(device_of(file.parent)) as (procs, brake):
        argv = [
            *_fio(seconds),
            *("--name=reads", f"--filename={node}", "--readonly", f"--size={_SIZE}"),
            *("--rw=randread", "--bs=4k", "--iodepth=8", "--rate_iops=1000"),
        ]
        rng = np.random.default_rng(0)
        due = [time.monotonic() + 1.0, 0.0]

        def look() -> bool:
            if time.monotonic() >= due[0]:
                due[1] = 1.0 - due[1]
                brake(_BRAKED_IOPS if due[1] else 0)
                due[0] += float(rng.uniform(0.2, 1.0))
            return False

        return _learn(Path(node).name, under_limit(argv, procs), seconds, look)


def _fio(seconds: float) -> list[str]:
    common = ("--ioengine=libaio", "--direct=1", "--time_based", "--norandommap", "--thread")
    return [find_tool("fio"), *common, f"--runtime={seconds + 1:g}"]


def _learn(disk: str, argv: list[str], seconds: float, look: _Look) -> ModelFile:
    # Record the disk while the load runs, and train on it.
    module = find_module("iolat")
    with tempfile.TemporaryDirectory(prefix="kmind-bench-") as scratch:
        path = Path(scratch, "recording")
        plan = plan_recording([f"hooks@{disk}"], max_mib=1024)
        with Recorder(plan, path) as recorder:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(
                argv, stdout=quiet, stderr=quiet, text=True, start_new_session=True
            )
            try:
                recorder.run(seconds, look)
                if process.poll():
                    raise KmindError(f"fio failed with status {process.returncode}")
            finally:
                stop_process(process)
        return train(module, load_recipe(module), read_data(path, module))


@contextlib.contextmanager
def _loop(file: Path) -> Iterator[str]:
    command = ["losetup", "--find", "--show", "--direct-io=on", "--read-only", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotSupportedError(f"no loop device: {done.stderr.strip()}")
    node = done.stdout.strip()
    try:
        yield node
    finally:
        subprocess.run(["losetup", "--detach", node], check=False)


@contextlib.contextmanager
def _braked(disk: str) -> Iterator[tuple[Path, Callable[[int], object]]]:
    # A cgroup to run the reader in, and how to slow its reads of the disk (0: not at all).
    if not (_BLKIO / "blkio.throttle.read_iops_device").exists():
        raise NotSupportedError("no blkio controller with throttling in cgroup v1 here")
    device = Path("/sys/block", disk, "dev").read_text().strip()
    group = Path(tempfile.mkdtemp(prefix="kmind-bench-", dir=_BLKIO))
    rule = group / "blkio.throttle.read_iops_device"
    try:
        yield group / "cgroup.procs", lambda iops: rule.write_text(f"{device} {iops}\n")
    finally:
        with contextlib.suppress(OSError):
            rule.write_text(f"{device} 0\n")
        _remove(group)


def _remove(group: Path) -> None:
    # Its processes may need a moment to end.
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


def _overhead(file: Path, disk: str, model: ModelFile, *, quick: bool) -> dict[str, Any]:
    module = find_module("iolat")
    job = FioJob("libaio", "randread", depth=32, direct=True)
    seconds = _QUICK_OVERHEAD_S if quick else _OVERHEAD_S
    params = parse_parameters(module.manifest, [f"slow_us={model.card['notes']['slow_us']}"])
    lost: dict[str, list[float]] = {"with": [], "again": []}
    decided = 0
    for order in interleaved(["without", "again", "with"], _QUICK_ROUNDS if quick else _ROUNDS):
        rates = {}
        for arm in order:
            with contextlib.ExitStack() as stack:
                if arm == "with":
                    agent = make_bpf_agent(module, Target.block(disk), params, deadline_s=600)
                    stack.callback(agent.close)
                    agent.set_mode(Mode.OBSERVE)
                    agent.start()
                    agent.models.deploy(model.slot())
                report, _ = run_fio(job, file, _SIZE, seconds, None)
                rates[arm] = float(report["jobs"][0]["read"]["iops"])
                if arm == "with":
                    columns = module.manifest.columns
                    names = ("fast_as_fast", "fast_as_slow", "slow_as_fast", "slow_as_slow")
                    decided += sum(agent.feature(columns[name]) for name in names)
        for arm, found in lost.items():
            found.append(100 * (1 - rates[arm] / rates["without"]))
    return {
        **Metric("iolat_overhead_percent", lost["with"], percent=True).as_json(),
        **Metric("aa_percent", np.abs(lost["again"]), percent=True).as_json(),
        "decided": decided,
    }
