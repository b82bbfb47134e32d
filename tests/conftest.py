# SPDX-License-Identifier: Apache-2.0
"""Rules for every test: the machine stays as it was, and nothing is skipped in silence.

``@pytest.mark.kernel("bpffs", "tp_btf")`` names the features of ``kmind.bpf.probe`` that a test
needs. It is skipped, with the reason, if they are not there; so is one that is marked ``guest``,
if such a guest cannot be booted, and one without a program that ``needs`` names. Under
``CI=true`` every other skip is a failure, and so is that for a program, for ``make setup``
installs them: what this machine can run, it runs.
"""

import functools
import gc
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import machine
import pytest
from programs import Lacking, program

CI = os.environ.get("CI") == "true"
REASON_STANDS = pytest.StashKey[bool]()

BPFFS = Path("/sys/fs/bpf")
TRACEFS = Path("/sys/kernel/tracing")


def _touches_the_machine(item: pytest.Item) -> bool:
    return any(map(item.get_closest_marker, ("kernel", "fault")))


@functools.cache
def _probe(name: str) -> Any:
    from kmind.bpf import probe  # only here: most runs probe nothing

    if name not in probe.names():
        pytest.fail(f"marker kernel: {name} is no feature of kmind.bpf.probe", pytrace=False)
    return probe.probe(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those last that other load on the machine's disk would disturb."""
    items.sort(key=lambda item: item.get_closest_marker("quiet") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of the kernel, or of a guest's, that this machine cannot run."""
    for needed in item.iter_markers("needs"):
        for name in needed.args:
            program(name)
    if guest_marker := item.get_closest_marker("guest"):
        from vm import image

        if reason := next(filter(None, map(image.missing, guest_marker.args)), ""):
            pytest.skip(reason)
    markers = list(item.iter_markers("kernel"))  # the test's own, its file's, its parameters'
    if not markers:
        return
    if os.geteuid() != 0:
        _skip(item, "needs root")
    for name in (name for marker in markers for name in marker.args):
        if (result := _probe(name)).state != "ok":
            _skip(item, f"{name} is {result.state} here: {result.cause}")


def _skip(item: pytest.Item, reason: str) -> None:
    item.stash[REASON_STANDS] = True
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI, let a skip fail whose reason is not this machine."""
    report = yield
    lacking = call.excinfo is not None and call.excinfo.errisinstance(Lacking)
    expected = hasattr(report, "wasxfail") or item.stash.get(REASON_STANDS, False) or lacking
    if CI and report.skipped and not expected:
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As above, for a file that skips itself."""
    report = yield
    if CI and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"skipped under CI: {report.longrepr}"


@pytest.fixture(scope="session", autouse=True)
def machine_is_left_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the run if it leaves anything behind.

    A run of plain tests alone looks at its own processes only, and puts nothing back: it
    may run beside another one, whose settings these are.
    """
    touched = any(map(_touches_the_machine, request.session.items))
    snapshot = machine.full if touched else machine.processes
    before = snapshot()
    yield
    gc.collect()  # what the last test held by a cycle
    if files := sys.modules.get("kmind.guard.openfiles"):
        files.unload_iterators()
    lines = machine.settled(before, snapshot)
    if touched:
        machine.put_back(before)
    if lines:
        pytest.fail("the tests did not leave the machine as found:\n" + "\n".join(lines), False)


@pytest.fixture(autouse=True)
def each_test_leaves_machine_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """Name the kernel or fault test that leaves a setting, mount or process behind."""
    if not _touches_the_machine(request.node):
        yield
        return
    before = machine.quick()
    # To look through all that was ever imported takes a tenth of a second: what was
    # there before is left out, and only looked through if something is left behind.
    gc.freeze()
    yield
    gc.collect()
    lines = machine.settled(before, machine.quick, 0.5)
    if lines:
        gc.unfreeze()
        gc.collect()
        lines = machine.settled(before, machine.quick)
    machine.put_back(before)
    if lines:
        pytest.fail("this test did not leave the machine as found:\n" + "\n".join(lines), False)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object of an agent without hooks."""
    from agents import BARE, compile_bpf  # only here: most runs need no agent

    return compile_bpf(BARE, tmp_path_factory.mktemp("bare") / "bare.bpf.o")


@pytest.fixture(
    params=[pytest.param("arena", marks=pytest.mark.kernel("arena", "arena_atomics")), "array"]
)
def each_shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let agents share memory in this shape: a test that asks for it runs in each in turn."""
    monkeypatch.setenv("KMIND_SHARED", request.param)
    return str(request.param)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Mount bpffs and tracefs for a run that has kernel tests, before the first asks for them."""
    wanted = os.geteuid() == 0 and any(item.get_closest_marker("kernel") for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    for kind, where in (("bpf", BPFFS), ("tracefs", TRACEFS)):
        # Asked by the type of the file system: the folder is there either way.
        shown = subprocess.run(["stat", "-f", "-c", "%T", where], capture_output=True, text=True)
        if shown.stdout.strip() not in {kind, f"{kind}_fs"}:
            subprocess.run(["mount", "-t", kind, "-o", "mode=700", kind, where], check=True)
            session.config.add_cleanup(functools.partial(_unmount, where))


def _unmount(where: Path) -> None:
    subprocess.run(["umount", where], check=True)
