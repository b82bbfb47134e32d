# SPDX-License-Identifier: Apache-2.0
"""``kmind run``: one instance in the foreground."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kmind.agent._base import Mode
from kmind.cli._report import Report
from kmind.errors import KmindError, UsageError
from kmind.extension import Module, find_module, parse_parameters
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import Target, parse_target
from kmind.runtime.agents import make_bpf_agent, need_root
from kmind.runtime.instance import Instance

__all__ = ["DEADLINE_S", "StopFlag", "bind", "run", "stop_signals"]

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


def bind(module_name: str, target_name: str) -> tuple[Module, Target]:
    """Module and target by name; UsageError where one is unknown or they do not fit."""
    module = find_module(module_name)
    target = parse_target(target_name)
    kind = module.manifest.target.kind
    if target.kind != kind:
        raise UsageError(
            f"module {module.manifest.name} works on a {kind} target, "
            f"and {target.name} is a {target.kind} one",
            hint="name a block device, such as vda" if kind == "block" else "the target is: system",
        )
    return module, target


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
    need_root()
    with Journal() as journal, stop_signals() as stop, Report(json=json) as report:
        _restore_leftovers(journal, policy, report)
        instance = Instance(
            module,
            target,
            params,
            agent=make_bpf_agent(module, target, params, deadline_s=DEADLINE_S),
            actuator=Actuator(journal, policy),
            policy=policy,
            mode=mode,
            emit=report.emit,
            deadline_s=DEADLINE_S,
        )
        report.instance = instance
        summary = {"restored": False}
        try:
            if instance.start(lambda: stop.is_set):
                _loop(instance, report, stop, duration_s)
        finally:
            summary = instance.stop()
    if instance.failed:
        state = "everything was put back" if summary["restored"] else "see kmind restore"
        raise KmindError(instance.failed, hint=state)
    return 0 if summary["restored"] else 1


def _loop(instance: Instance, report: Report, stop: StopFlag, duration_s: float | None) -> None:
    until = time.monotonic() + (duration_s or float("inf"))
    while not (stop.is_set or report.broken or instance.failed):
        left = until - time.monotonic()
        if left <= 0:
            return
        instance.step(min(left, _STEP_S))
        report.refresh()


def _restore_leftovers(journal: Journal, policy: Policy, report: Report) -> None:
    done = restore(journal, policy)
    for outcome in done.restored:
        report.emit(
            "restored",
            knob=outcome.knob,
            target=outcome.target,
            found=outcome.found,
            value=outcome.to,
        )
    for outcome in done.skipped:
        report.emit(
            "log",
            source="kmind",
            message=f"{outcome.knob} of {outcome.target} is not put back: {outcome.why}",
        )
    if done.unrecorded:
        raise done.unrecorded
