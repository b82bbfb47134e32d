# SPDX-License-Identifier: Apache-2.0
"""The admin's bounds: what may be set, how far, how often, and never.

A policy is layered: the vendor's file, the admin's, then the drop-ins by file
name; a later layer overrides field by field. It may only narrow a knob's safe
bounds, unless it says ``unsafe = true``. docs/policy.md describes the format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kmind.errors import KnobError, PolicyError, UsageError
from kmind.guard._policy_file import DaemonDeath, Layer, Section, read_layer
from kmind.knobs import Knob, Rule, RuleOp, Target, Value
from kmind.paths import ADMIN, VENDOR

__all__ = ["MAX_RULES", "Bound", "DaemonDeath", "Policy", "RefusalKind", "RefusedError"]

RefusalKind = Literal["forbidden", "type", "range", "grid", "step", "rule"]

MAX_RULES = 4
"""Rules over several knobs that one knob may be under; the kernel agent holds no more."""

# Below the root that a policy is loaded from.
_VENDOR = (VENDOR / "policy.toml").relative_to("/")
_ADMIN = (ADMIN / "policy.toml").relative_to("/")
_DROP_INS = (ADMIN / "policy.d").relative_to("/")

_MIRROR: Mapping[RuleOp, RuleOp] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}

_MINUTE_NS = 60_000_000_000


class RefusedError(PolicyError):
    """A change is against the policy; ``verdict`` says which check it failed."""

    def __init__(self, verdict: RefusalKind, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.verdict = verdict


@dataclass(frozen=True)
class Bound:
    """Bounds of one knob on one target, by the policy and the knob together.

    Values are encoded (``Knob.encode``). ``step`` is the largest difference to the present value,
    ``step_factor_percent`` the largest ratio either way (400: four times), ``choices`` the bit mask
    of allowed choices of an enum. In the long run one change each ``interval_ns`` is allowed, and
    ``burst`` at once. A value may be held for ``hold_ms`` per recommendation, and be renewed. 0
    means unbounded, except for ``minimum`` and ``maximum``.
    """

    minimum: int
    maximum: int
    grid: int = 1
    step: int = 0
    step_factor_percent: int = 0
    choices: int = 0
    interval_ns: int = 0
    burst: int = 1
    hold_ms: int = 0
    rules: tuple[Rule, ...] = ()
    forbidden: bool = False

    def refuses(self, new: int, current: int) -> RefusalKind | None:
        """The first check that an encoded value fails, but for rules, or None.

        The same checks in the same order as the kernel agent's admission.
        """
        if self.forbidden:
            return "forbidden"
        if not self.minimum <= new <= self.maximum:
            return "range"
        if (self.grid > 1 and new % self.grid) or (self.choices and not self.choices >> new & 1):
            return "grid"
        if new == current:
            return None
        if self.step and abs(new - current) > self.step:
            return "step"
        # Ratios are taken from 1 upwards, so that a knob may leave 0.
        low, high = sorted((max(new, 1), max(current, 1)))
        if self.step_factor_percent and high * 100 > low * self.step_factor_percent:
            return "step"
        return None


@dataclass(frozen=True)
class Policy:
    """The layers of a policy, put together.

    ``Policy()`` is what applies where no file is: each knob within its safe
    bounds, 60 changes a minute, four at once, held for at most an hour unless renewed,
    and restored when the daemon dies.
    """

    layers: tuple[Layer, ...] = field(default=())

    @classmethod
    def load(cls, path: Path | None = None, *, root: Path = Path("/")) -> Policy:
        """One policy file, or without a path all layers of this machine.

        Raises ``PolicyError`` that names file and line for what is wrong.
        """
        if path is not None:
            files = [path]
        else:
            files = [file for file in (root / _VENDOR, root / _ADMIN) if os.path.lexists(file)]
            # Editors' locks and copies begin with a dot; a link that leads nowhere is an error.
            drop_ins = sorted((root / _DROP_INS).glob("*.toml"))
            files += [file for file in drop_ins if not file.name.startswith(".")]
        policy = cls(tuple(read_layer(file, root=root) for file in files))
        for layer in policy.layers:
            for name in layer.sections:
                policy.section(name)  # layers that contradict each other fail here
        return policy

    def section(self, *names: str) -> Section:
        """The fields set for these sections, a later name and layer over an earlier one.

        Those with a target are of one rank, and hold if any says that the knob is forbidden in
        the same layer.
        """
        merged = Section()
        for rank in [[name] for name in names if "@" not in name] + [
            [name for name in names if "@" in name]
        ]:
            for layer in self.layers:
                sections = [layer.sections[name] for name in rank if name in layer.sections]
                for section in sections:
                    merged = merged.overlaid(section)
                if any(section.forbidden for section in sections):
                    merged = merged.overlaid(Section(forbidden=True))
        if merged.min is not None and merged.max is not None and merged.min > merged.max:
            raise PolicyError(
                f"{self._source('min', *names)}: min {merged.min} is above "
                f"max {merged.max} of {self._source('max', *names)}",
                hint="no value satisfies both; correct one of them",
            )
        return merged

    def bound(self, knob: Knob, target: Target) -> Bound:
        """Return the bounds of one knob on one target: its safe bounds and the policy's.

        Raises ``PolicyError`` if no value is allowed, and ``KnobError`` if the target lacks an enum
        knob.
        """
        names = self._names(knob, target)
        section = self.section(*names)
        interval_ns = _MINUTE_NS // section.per_minute if section.per_minute else 0
        rules = self._rules(knob)
        forbidden = bool(section.forbidden)
        low, high = knob.limits(target)
        if knob.kind == "enum":
            allowed = section.choices if section.choices is not None else knob.choices
            mask = sum(1 << knob.encode(c) for c in knob.available(target) if c in allowed)
            low, high = knob.limits(target)
            return Bound(
                low, high, choices=mask, interval_ns=interval_ns, burst=section.burst_or_default,
                hold_ms=section.hold_ms, rules=rules, forbidden=forbidden or not mask,
            )  # fmt: skip
        low, high = knob.limits(target)
        wanted_low = low if section.min is None else section.min
        wanted_high = high if section.max is None else section.max
        if not section.unsafe:  # as read, it is within the knob's bounds, not the machine's
            wanted_high = min(high, wanted_high)
        minimum = -(-wanted_low // knob.grid) * knob.grid
        maximum = wanted_high // knob.grid * knob.grid
        if minimum > maximum:
            raise PolicyError(
                f"{self._source('min', *names) or self._source('max', *names)}: no value of "
                f"{knob.name} on {target} lies between {wanted_low} and {wanted_high}",
                hint=f"safe here are {low} to {high}, in steps of {knob.grid}",
            )
        return Bound(
            minimum,
            maximum,
            grid=knob.grid,
            step=section.max_step or 0,
            step_factor_percent=round((section.max_step_factor or 0) * 100),
            interval_ns=interval_ns,
            burst=section.burst_or_default,
            hold_ms=section.hold_ms,
            rules=rules,
            forbidden=forbidden,
        )

    def check(
        self,
        knob: Knob,
        target: Target,
        new: object,
        current: Value,
        others: Mapping[str, Value],
    ) -> RefusedError | None:
        """Return the reason why the change is refused, or None if it is allowed.

        ``others`` holds present values of other knobs of the target, by name; a rule over a knob
        that is not among them cannot be checked, and refuses. The current value is exempt from step
        and rules. The rate is not checked here: only the kernel agent counts.
        """
        bound = self.bound(knob, target)
        what = f"{knob.name} of {target} may not be set to {new!r}"
        names = self._names(knob, target)
        if bound.forbidden:
            return self._refusal("forbidden", f"{what}: the policy forbids the knob", names)
        try:
            code = knob.encode(new)  # type: ignore[arg-type]
        except UsageError as error:
            return RefusedError("type", f"{what}: {error}")
        try:
            old = knob.encode_found(current, target)
        except KnobError as error:
            return RefusedError("type", error.args[0], hint=error.hint)
        kind = bound.refuses(code, old)
        if kind == "range":
            limits = f"{bound.minimum} to {bound.maximum}"
            return self._refusal(kind, f"{what}: allowed are {limits}", names)
        if kind == "grid" and bound.choices:
            allowed = [c for i, c in enumerate(knob.choices) if bound.choices >> i & 1]
            return self._refusal(kind, f"{what}: allowed are {', '.join(allowed)}", names)
        if kind == "grid":
            return RefusedError(kind, f"{what}: it takes multiples of {bound.grid}")
        if kind == "step":
            limit = [f"at most {bound.step} away"] if bound.step else []
            if bound.step_factor_percent:
                limit.append(f"at most {bound.step_factor_percent / 100:g} times more or less")
            message = f"{what}: too far from {current} in one step ({' and '.join(limit)})"
            return self._refusal(kind, message, names, "change it in smaller steps")
        for rule in bound.rules if code != old else ():
            other = others.get(rule.other)
            if not isinstance(other, int) or not rule.holds(code, other):
                present = "unknown" if other is None else other
                message = f"{what}: it must be {rule}, which is {present}"
                return self._refusal("rule", message, ("rule",))
        return None

    def on_daemon_death(self, knob: Knob, target: Target) -> DaemonDeath:
        """Return the action to take on a change to this knob when its owner dies."""
        return self.section(*self._names(knob, target)).on_daemon_death or "restore"

    def _names(self, knob: Knob, target: Target) -> tuple[str, ...]:
        """The sections that speak of a knob on a target, the most special last."""
        ours = f"{knob.name}@"
        special = [name for layer in self.layers for name in layer.sections if ours in name]
        named = [n for n in special if n.startswith(ours) and target.is_named(n[len(ours) :])]
        return ("defaults", knob.name, *dict.fromkeys(named))

    def _rules(self, knob: Knob) -> tuple[Rule, ...]:
        # A rule holds whichever of its two knobs is set, so each has it once.
        rules = list(knob.rules)
        for layer in self.layers:
            for entry in layer.rules:
                if entry.knob == knob.name:
                    rules.append(Rule(entry.op, entry.other, entry.offset))
                elif entry.other == knob.name:
                    rules.append(Rule(_MIRROR[entry.op], entry.knob, -entry.offset))
        rules = list(dict.fromkeys(rules))
        if len(rules) > MAX_RULES:
            raise PolicyError(
                f"{self._source('rule')}: {knob.name} is under {len(rules)} rules",
                hint=f"at most {MAX_RULES} can be checked in the kernel, its own included",
            )
        return tuple(rules)

    def _source(self, key: str, *names: str) -> str:
        """Return where the effective field was set: "file:line", or "" if it was not."""
        for name in reversed(names or (key,)):
            for layer in reversed(self.layers):
                if (name, key) in layer.lines:
                    return layer.lines[name, key]
        return ""

    def _refusal(
        self, kind: RefusalKind, message: str, names: tuple[str, ...], hint: str = ""
    ) -> RefusedError:
        keys = {
            "forbidden": ("forbidden",),
            "range": ("max", "min"),
            "grid": ("choices",),
            "step": ("max_step_factor", "max_step"),
            "rule": ("rule",),
        }
        sources = [self._source(key, *names) for key in keys.get(kind, ())]
        where = next(filter(None, sources), "")
        hints = [hint, f"set in {where}" if where else ""]
        return RefusedError(kind, message, hint=", ".join(filter(None, hints)))
