# SPDX-License-Identifier: Apache-2.0
"""Rules that need one record alone: a disk's state, and each reason for it.

Doubtful facts count for nothing. No rule looks at bits 2, 6 and 7 of smartctl's exit status: they
tell of a command that failed and of old entries in logs. SSDs are not judged by reallocated or
pending sectors: they replace blocks as they wear, and have a spare and a rated life for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kmind.health.smart.record import SmartRecord

__all__ = ["RANK", "Judgement", "Reason", "judge"]

RANK = {"ok": 0, "watch": 1, "failing": 2}
"""States by how bad they are; "asleep" and "unknown" say nothing of the disk."""

# NVM Express Base Specification 2.0, figure 207: bits of Critical Warning.
_WARNINGS = (
    "its spare blocks are used up",
    "it is too hot or too cold",
    "its reliability is degraded by errors of media or inside",
    "it takes no writes any more",
    "its backup of volatile memory has failed",
    "its persistent memory is read-only or unreliable",
)

# Their meaning for a hard disk: B. Schroeder et al., and Backblaze's choice of 5, 187, 197, 198.
_MEDIA = {
    "pending": "sectors cannot be read",
    "offline_uncorrectable": "sectors could not be read by its own scan",
    "reallocated": "sectors were replaced",
    "grown_defects": "defects have grown",
}


class Reason(NamedTuple):
    """A reason why a disk is not well: its state, in words, and by which ``value``.

    ``key`` stays the same from reading to reading, whatever the value.
    """

    key: str
    state: str
    text: str
    value: int = 1


class Judgement(NamedTuple):
    """A state (ok, watch, failing, asleep or unknown), its reasons, and remarks that judge not."""

    state: str
    reasons: tuple[Reason, ...]
    remarks: tuple[str, ...]


def judge(record: SmartRecord) -> Judgement:
    """The state that one record by itself shows."""
    if record.asleep:
        return Judgement("asleep", (), (_how_asleep(record),))
    reasons = (*_failing(record), *_watch(record))
    remarks = tuple(_remarks(record))
    if reasons:
        return Judgement(
            max((each.state for each in reasons), key=RANK.__getitem__), reasons, remarks
        )
    if _has_spoken(record):
        return Judgement("ok", (), remarks)
    return Judgement("unknown", (), (_why_unknown(record), *remarks))


def _how_asleep(record: SmartRecord) -> str:
    # smartctl takes a disk that fails CHECK POWER MODE for one in mode SLEEP (ataprint.cpp).
    if any("in SLEEP mode" in text for text in record.messages):
        return "asleep, or it does not answer: smartctl cannot tell one from the other"
    return "asleep, and was not woken"


def _failing(record: SmartRecord) -> Iterator[Reason]:
    bits = record.credible("critical_warning") or 0
    said = [text for bit, text in enumerate(_WARNINGS) if bits >> bit & 1]
    for bit, text in enumerate(_WARNINGS):
        if bits >> bit & 1:
            yield Reason(f"critical_warning:{bit}", "failing", f"NVMe warning: {text}")
    if record.passed is False and not said:
        yield Reason("passed", "failing", "the disk itself says that it is failing")
    elif record.passed is None and record.exit_bits and record.exit_bits & 8:
        yield Reason("passed", "failing", "smartctl's exit status says that the disk is failing")
    for row in record.attributes:
        if row.failed == "now" and row.prefail and _below(row.value, row.threshold):
            text = (
                f"attribute {row.id} ({row.name}) is at {row.value}, its limit is {row.threshold}"
            )
            yield Reason(f"limit:{row.id}", "failing", text)


def _below(value: int | None, threshold: int | None) -> bool:
    return value is not None and threshold is not None and threshold > 0 and value <= threshold


def _watch(record: SmartRecord) -> Iterator[Reason]:
    if record.kind == "hdd":
        for name, text in _MEDIA.items():
            if value := record.credible(name):
                yield Reason(name, "watch", f"{text}: {value}", value)
    for name, text in (
        ("reported_uncorrectable", "errors that it could not correct"),
        ("media_errors", "errors of media or data integrity"),
    ):
        if value := record.credible(name):
            yield Reason(name, "watch", f"{text}: {value}", value)
    wear = record.credible("wear_percent")
    if wear is not None and wear >= 100:
        yield Reason("wear_percent", "watch", f"{wear}% of its rated life is used", wear)
    for row in record.attributes:
        # How hot it once was, or is, is no sign of wear.
        if row.failed == "past" and row.prefail and row.id not in (190, 194):
            text = f"attribute {row.id} ({row.name}) was once at its limit"
            yield Reason(f"past:{row.id}", "watch", text)
    if record.self_test_failed:
        yield Reason("self_test", "watch", "its newest self-test failed")


def _has_spoken(record: SmartRecord) -> bool:
    credible = set(record.facts) - set(record.doubtful)
    return record.path != "volume" and bool(credible) and (
        record.passed is True or bool(record.attributes) or "critical_warning" in credible
    )  # fmt: skip


def _why_unknown(record: SmartRecord) -> str:
    if record.path == "volume":
        return "a volume, no disk: read the disks that it is made of (smartctl --scan, -d TYPE,N)"
    if record.messages:
        return record.messages[0]
    return "smartctl could read nothing that tells of its health"


def _remarks(record: SmartRecord) -> Iterator[str]:
    for name, why in record.doubtful.items():
        yield f"{name} is doubtful: {why}"
    if crc := record.credible("crc_errors"):
        yield f"{crc} transfers had a wrong checksum so far: look at the cable if it grows"
    for row in record.attributes:
        if row.failed == "now" and not row.prefail:
            yield f"attribute {row.id} ({row.name}) is past its limit, which is no sign of failure"
