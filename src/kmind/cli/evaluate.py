# SPDX-License-Identifier: Apache-2.0
"""``kmind evaluate``: one experiment by hand, in the foreground, on what runs now."""

from __future__ import annotations

import sys
from pathlib import Path

from kmind import events
from kmind.agent.core.core import Core
from kmind.cli.output import json_line, write
from kmind.cli.run import stop_signals
from kmind.errors import UsageError
from kmind.events import Event
from kmind.evidence import Design
from kmind.extension import parse_parameters
from kmind.extension.manifest.outcome import EvidencePart
from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.knobs import Knob, Target, Value, get_knob, parse_target
from kmind.paths import evidence_path
from kmind.runtime.cleanup import restoring
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.manual import Question, check_metric, evaluate
from kmind.runtime.instance.agent_factory import bind, make_bpf_agent, need_root
from kmind.util.names import file_name

__all__ = ["SCHEMA", "evaluate_command"]

SCHEMA = "kmind.evaluate/1"

_BLOCK_S, _WASH_OUT_S = 0.4, 0.1
_PATIENT_S = 86400.0  # nobody's heart beats: there is no extension


def evaluate_command(
    module_name: str,
    target_name: str,
    change: str,
    *,
    against: str | None,
    duration_s: float,
    metric: str,
    policy_file: Path | None,
    json: bool,
) -> int:
    """Run it, and say what came out; 1 if it was aborted.

    Raises UsageError for what does not fit, and KmindError where the knob cannot be set;
    everything is put back.
    """
    module, target = bind(module_name, target_name)
    check_metric(metric, module.manifest)
    question = _question(module.manifest.evidence, target, change, against, duration_s, metric)
    policy = Policy.load(policy_file)
    need_root()

    def tell(event: Event) -> None:
        line = json_line(SCHEMA, {"event": event.name, **event.fields()}) if json else event.text()
        write(line + "\n")
        sys.stdout.flush()

    with (
        restoring(policy, tell) as put_back,
        Journal() as journal,
        EvidenceStore(evidence_path(journal.path)) as store,
        Core.private() as core,
        Gate.open(core.approved_fd) as gate,
        stop_signals() as stop,
    ):
        put_back(journal)
        store.mark_interrupted()
        slot = core.register(file_name(f"evaluate@{target.name}"), module.manifest.name, "evaluate")
        params = parse_parameters(module.manifest, ())
        agent = make_bpf_agent(module, target, params, deadline_s=_PATIENT_S, core=core, slot=slot)
        try:
            number, experiment = evaluate(
                question,
                module.manifest,
                agent=agent,
                actuator=Actuator(journal, policy, gate=gate),
                store=store,
                emit=tell,
                cancelled=lambda: stop.is_set,
            )
        finally:
            agent.close()
        row = store.get(str(number))
    interval = experiment.interval
    tell(
        events.Result(
            experiment=number,
            knob=question.knob.name,
            incumbent=row["incumbent"],
            candidate=row["candidate"],
            metric=row["metric"],
            outcome=experiment.outcome,
            why=experiment.reason,
            kept=False,
            interval=interval.to_dict() if interval else None,
            blocks=len(experiment.blocks),
            now=question.knob.read(question.target),
        )
    )
    return 1 if experiment.outcome == "aborted" else 0


def _question(
    plan: EvidencePart,
    target: Target,
    change: str,
    against: str | None,
    duration_s: float,
    metric: str,
) -> Question:
    name, given, text = change.partition("=")
    if not given:
        raise UsageError(f"{change!r} is not KNOB=VALUE", hint="such as block.read_ahead_kb=16")
    knob = get_knob(name)
    if knob.target not in (target.kind, "system"):
        raise UsageError(
            f"{name} is not a knob of a {target.kind} target", hint="see docs/knobs.md"
        )
    # Of a module whose outcome takes long to tell, blocks are as long as in an instance.
    block_s, wash_out_s = max(_BLOCK_S, plan.block_s), max(_WASH_OUT_S, plan.wash_out_s)
    if duration_s < (pair_s := 2 * (block_s + wash_out_s)):
        raise UsageError(
            f"a pair of blocks takes {pair_s:g} s with this module, and there are {duration_s:g} s",
            hint=f"such as --duration {20 * pair_s:g}",
        )
    where = target if knob.target == target.kind else parse_target("system")
    return Question(
        knob,
        where,
        _value(knob, text),
        None if against is None else _value(knob, against),
        metric,
        Design(block_s=block_s, wash_out_s=wash_out_s, max_s=duration_s),
    )


def _value(knob: Knob, text: str) -> Value:
    if knob.kind == "enum":
        if text not in knob.choices:
            raise UsageError(
                f"{knob.name} has no choice {text!r}", hint=f"it has {', '.join(knob.choices)}"
            )
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"{knob.name} takes a whole number, not {text!r}", hint=f"in {knob.unit}"
        ) from None
