# SPDX-License-Identifier: Apache-2.0
"""``kmind run``: one instance in the foreground."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kmind.agent.core.core import Core
from kmind.agent.types import Mode
from kmind.cli._report import Report
from kmind.driver.loop import sweep
from kmind.errors import KmindError
from kmind.extension import parse_parameters
from kmind.guard import Gate, Journal, Policy
from kmind.paths import evidence_path, findings_path, memory_folder
from kmind.runtime.cleanup import remove_dead_runs, restoring, run_cgroup
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.instance.agent_factory import bind, make_bpf_agent, need_root
from kmind.runtime.instance.class_services import open_device
from kmind.runtime.instance.instance import Instance
from kmind.runtime.instance.validate import check_request, check_settable
from kmind.runtime.services import InstanceSpec, Sandbox, Services
from kmind.util.names import file_name

__all__ = ["DEADLINE_S", "StopFlag", "run", "stop_signals"]

DEADLINE_S = 1.0
"""An extension that gives no sign of life for that long is stalled."""

_STEP_S = 0.2


class StopFlag:
    """Set by the signals that mean: stop, and put everything back."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *_: object) -> None:
        """A signal handler."""
        self.is_set = True


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Within it, SIGINT, SIGTERM and SIGHUP only set the flag."""
    flag = StopFlag()
    before = {
        number: signal.signal(number, flag.set)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    module_name: str,
    target_name: str,
    words: Sequence[str],
    *,
    mode: Mode,
    duration_s: float | None,
    json: bool,
    policy_file: Path | None,
) -> int:
    """Run until a signal, the duration's end or a failure; everything is put back then."""
    module, target = bind(module_name, target_name)
    params = parse_parameters(module.manifest, words)
    policy = Policy.load(policy_file)
    check_request(module, target, params, policy)
    need_root(extension=True)
    check_settable(module, target, params, mode)
    name = f"{module.manifest.name}@{target.name}"
    remove_dead_runs()
    if module.manifest.driver:
        sweep()
    with (
        Report(json=json) as report,
        restoring(policy, report.emit) as put_back,
        Journal() as journal,
        EvidenceStore(evidence_path(journal.path)) as evidence,
        Findings(findings_path(journal.path), report.emit) as findings,
        Core.private() as core,
        Gate.open(core.approved_fd) as gate,
        stop_signals() as stop,
    ):
        put_back(journal)
        evidence.mark_interrupted()
        journal.hurry()
        slot = core.register(file_name(name), module.manifest.name, module.manifest.class_)
        services = Services(
            journal,
            policy,
            report.emit,
            evidence=evidence,
            findings=findings,
            memory=memory_folder(journal.path),
            core=core,
            gate=gate,
        )
        device = open_device(name, module.manifest, params, services)
        try:
            agent = make_bpf_agent(
                module,
                target,
                params,
                deadline_s=DEADLINE_S,
                core=core,
                slot=slot,
                constants=device.constants if device else None,
            )
        except BaseException:
            if device:
                device.stop("")
            raise
        spec = InstanceSpec(
            module,
            target,
            params,
            mode,
            agent,
            slot=slot,
            sandbox=Sandbox(cgroup=run_cgroup(name)),
            deadline_s=DEADLINE_S,
        )
        instance = Instance(spec, services, device)
        report.instance = instance
        summary = {"restored": False}
        try:
            if instance.start(lambda: stop.is_set):
                _loop(instance, findings, report, stop, duration_s)
        finally:
            journal.hurry(False)
            summary = instance.stop()
    if instance.failed:
        state = "everything was put back" if summary["restored"] else "see kmind restore"
        if not target.is_present():
            state = "nothing is left to be put back"
        raise KmindError(instance.failed, hint=state)
    if report.refused and not summary["changes"]:
        raise KmindError(f"nothing could be set: {report.refused}")
    return 0 if summary["restored"] else 1


def _loop(
    instance: Instance,
    findings: Findings,
    report: Report,
    stop: StopFlag,
    duration_s: float | None,
) -> None:
    until = time.monotonic() + (duration_s or float("inf"))
    while not (stop.is_set or report.broken or instance.failed):
        left = until - time.monotonic()
        if left <= 0:
            return
        instance.step(min(left, _STEP_S))
        findings.poll()
        report.refresh()
