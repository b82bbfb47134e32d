# SPDX-License-Identifier: Apache-2.0
"""``kmind diskfail``: what saved output of smartctl says of disks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kmind.cli.output import json_line, warn, write
from kmind.errors import KmindError
from kmind.health.smart.attributes import Attribute, is_used, parts
from kmind.health.smart.document import SmartError, read_file
from kmind.health.smart.facts import FACTS
from kmind.health.smart.follow import Followed, Follower
from kmind.health.smart.record import SmartRecord, read_record
from kmind.util.text import clean

__all__ = ["SCHEMA", "check_command"]

SCHEMA = "kmind.diskfail.check/1"

_UNITS = {"degrees Celsius": " °C", "percent": "%", "hours": " h", "bytes": " bytes"}


def check_command(files: Iterable[Path], *, json: bool) -> int:
    """Print a line for each disk, alert and error; 1 if a file could not be read."""
    follower = Follower()
    failed = False
    for path, found in _files(files):
        try:
            if isinstance(found, SmartError):
                raise found
            record = read_record(read_file(path))
        except KmindError as error:
            failed = True
            _say_error(path, clean(str(error)), json=json)
        else:
            _say(path, record, follower.see(record), json=json)
    return int(failed)


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, SmartError | None]]:
    for path in paths:
        if not path.is_dir():
            yield path, None
            continue
        try:
            names = sorted(each.name for each in path.iterdir())
        except OSError as error:
            yield path, SmartError(f"cannot be listed: {error.strerror}")
            continue
        saved = [name for name in names if name.endswith(".json") and not name.startswith(".")]
        if not saved:
            yield path, SmartError("holds no *.json")
        yield from ((path / name, None) for name in saved)


def _say_error(path: Path, reason: str, *, json: bool) -> None:
    if json:
        write(json_line(SCHEMA, {"kind": "error", "file": str(path), "reason": reason}) + "\n")
    else:
        warn(f"kmind: {clean(str(path))} {reason}\n")


def _say(path: Path, record: SmartRecord, seen: Followed, *, json: bool) -> None:
    if json:
        lines = [json_line(SCHEMA, _disk(path, record, seen))]
        if seen.alert:
            fields = {"kind": "alert", "file": str(path), "disk": seen.disk, "reason": seen.alert}
            lines.append(json_line(SCHEMA, fields))
        write("".join(line + "\n" for line in lines))
    else:
        write("".join(line + "\n" for line in _text(path, record, seen)))


def _disk(path: Path, record: SmartRecord, seen: Followed) -> dict[str, Any]:
    judgement = seen.judgement
    return {
        "kind": "disk",
        "file": str(path),
        "disk": seen.disk,
        "state": judgement.state,
        "facts": dict(record.facts),
        "doubtful": list(record.doubtful),
        "doubts": dict(record.doubtful),
        "reasons": [each.text for each in judgement.reasons],
        "remarks": list(judgement.remarks),
        "risk": None,
        "device": record.device,
        "type": record.type,
        "path": record.path,
        "media": record.kind,
        "model": record.model,
        "family": record.family,
        "serial": record.serial,
        "wwn": record.wwn,
        "firmware": record.firmware,
        "capacity": record.capacity,
        "time": record.time,
        "passed": record.passed,
        "exit_bits": record.exit_bits,
        "attributes": [_attribute(row, record) for row in record.attributes],
    }


def _attribute(row: Attribute, record: SmartRecord) -> dict[str, Any]:
    fields = row._asdict() | {"used": is_used(row)}
    packed = parts(row, record.seagate)
    return fields | {"parts": packed} if packed else fields


def _text(path: Path, record: SmartRecord, seen: Followed) -> Iterator[str]:
    judgement = seen.judgement
    yield f"{clean(str(path))}: {seen.disk} is {judgement.state}"
    for reason in judgement.reasons:
        yield f"  {reason.state}: {reason.text}"
    known = [
        f"{name} {value}{_UNITS.get(FACTS[name].unit, '')}"
        for name, value in record.facts.items() if name not in record.doubtful
    ]  # fmt: skip
    if known:
        yield f"  {', '.join(known)}"
    for remark in judgement.remarks:
        yield f"  {remark}"
    unused = [f"{row.id} {row.name} {row.text}" for row in record.attributes if not is_used(row)]
    if unused:
        yield f"  not judged: {', '.join(unused)}"
    if seen.alert:
        yield f"  alert: {seen.alert}"
