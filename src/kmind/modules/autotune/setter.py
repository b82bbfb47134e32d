# SPDX-License-Identifier: Apache-2.0
"""Having knobs set: recommends until they stand as wanted, and holds them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kmind.extension import ChangeEvent, Context, VerdictEvent

from .space import Codes, Dimension

__all__ = ["Setter"]

_HOLD_S = 15.0
_RENEW_S = 5.0
_AGAIN_S = 1.0
_ADVICE_S = 60.0
_ANSWER_S = 3.0  # a recommendation without an answer by then is made again
_LATER = {"rate", "busy", "owner", "expired", "torn", "replayed", "pending", "lease"}
_IMPOSSIBLE = {"range", "grid", "type", "unknown", "model"}
_RULE_TRIES = 5


class Setter:
    """Moves all knobs to ``want``. ``stands`` is what they hold, as far as it was told.

    ``settled_at`` is when they last came to stand as wanted, None while they do not.
    ``refused`` says why they never will; ``lost`` are knobs that somebody else took. ``dropped``
    is how the owner's own experiment ended, if it put all back after it.
    """

    def __init__(self, context: Context, dimensions: Sequence[Dimension]) -> None:
        self.refused = ""
        self.dropped = ""
        self.lost: set[int] = set()
        self.settled_at: float | None = None
        self._context = context
        self._dimensions = dimensions
        self._numbers = {d.info.name: n for n, d in enumerate(dimensions)}
        self._stands = [d.baseline for d in dimensions]
        self._held = [False] * len(dimensions)
        self._next = [0.0] * len(dimensions)
        self._tries = [0] * len(dimensions)
        self._want: Codes = tuple(self._stands)
        self._reason = "The values of the start are put back."
        self._evidence: Mapping[str, float | int | str] = {}

    @property
    def want(self) -> Codes:
        """Values that the knobs shall have."""
        return self._want

    def go(self, want: Codes, reason: str, evidence: Mapping[str, float | int | str]) -> None:
        """Set the knobs, and hold them there."""
        self._reason, self._evidence = reason, evidence
        if want != self._want:
            for number, (old, new) in enumerate(zip(self._want, want, strict=True)):
                if old != new:
                    self._next[number], self._tries[number] = 0.0, 0
            self._want, self.refused, self.settled_at = want, "", None
        self.turn()

    def turn(self) -> None:
        """Recommend what is due."""
        now = self._context.now()
        for number, dimension in enumerate(self._dimensions):
            want = self._want[number]
            # A baseline that stands needs nobody to hold it.
            rests = want == self._stands[number] == dimension.baseline and not self._held[number]
            if rests or now < self._next[number] or number in self.lost:
                continue
            made = self._context.recommend(
                dimension.info.name,
                dimension.info.decode(want),
                reason=self._reason,
                evidence=self._evidence,
                hold_s=_HOLD_S,
            )
            self._next[number] = now + (_ANSWER_S if made is not None else _AGAIN_S)
        self._settle(now)

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Take an answer to a recommendation."""
        number = self._numbers[verdict.knob]
        code = self._dimensions[number].info.encode(verdict.value)
        if code != self._want[number]:
            return
        now = self._context.now()
        if verdict.verdict == "renewed":
            self._stands[number] = code
            self._held[number] = code != self._dimensions[number].baseline
            self._next[number] = now + _RENEW_S
        elif verdict.verdict in _LATER:
            self._next[number] = now + _AGAIN_S
        elif verdict.verdict in ("advised", "shadowed"):
            self._next[number] = now + _ADVICE_S
        elif verdict.verdict in ("rule", "step"):
            # The knob beside it may still be on its way.
            self._tries[number] += 1
            self._next[number] = now + _AGAIN_S / 4
            if self._tries[number] > _RULE_TRIES:
                self._refuse(number, verdict)
        elif verdict.verdict in _IMPOSSIBLE:
            if self._dimensions[number].is_choice:
                self._dimensions[number].out.add(code)
            self._refuse(number, verdict)
        self._settle(now)

    def on_change(self, change: ChangeEvent) -> None:
        """A knob was set, or set back."""
        number = self._numbers[change.knob]
        if change.kind == "failed":
            self.refused = f"{change.knob} is not set"
            self._next[number] = self._context.now() + _AGAIN_S
            return
        dimension = self._dimensions[number]
        code = dimension.info.encode(change.value)
        if change.kind == "dropped":
            self.dropped, code = change.outcome, dimension.baseline
        self._stands[number] = code
        self._held[number] = change.kind == "applied" and code != dimension.baseline
        self._next[number] = self._context.now() + (_RENEW_S if self._held[number] else 0.0)
        if change.kind == "yielded":
            self.lost.add(number)
            self.refused = f"{change.knob} was taken by somebody else"
        self._settle(self._context.now())

    def begin_anew(self) -> None:
        """Restart the settling time: earlier measurements say nothing about the current values."""
        if self.settled_at is not None:
            self.settled_at = self._context.now()

    def _refuse(self, number: int, verdict: VerdictEvent) -> None:
        self._next[number] = self._context.now() + _AGAIN_S
        self.refused = f"{verdict.knob} may not be {verdict.value} ({verdict.verdict})"

    def _settle(self, now: float) -> None:
        if tuple(self._stands) != self._want:
            self.settled_at = None
        elif self.settled_at is None:
            self.settled_at = now
