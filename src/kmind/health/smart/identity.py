# SPDX-License-Identifier: Apache-2.0
"""The disk that a record is of: by serial number and model, by name only where there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kmind.health.smart.record import SmartRecord

__all__ = ["Identities"]

# Numbers that makers of bridges and cheap disks, and those who hide numbers from the public, leave
# in: one repeated character, or a row of digits.
_ROW = r"0*1?234567890?(abcdef)?"
_NO_SERIAL = re.compile(rf"(.)\1*|{_ROW}|redacted|unknown|none|n/?a|default.*", re.IGNORECASE)
_NO_WWN = re.compile(rf"(.)\1*|{_ROW}")
_AT_ONCE_S = 60  # a disk that comes under another name takes longer: it is plugged in, or booted
_NO_TIME = (0, 1234567890)  # the second is left by those who hide times


@dataclass(slots=True)
class _Known:
    name: str
    wwn: str
    capacity: int
    place: tuple[str, str]
    time: int

    def is_of(self, record: SmartRecord, wwn: str) -> bool:
        """True if a record with this serial number and model can be of this disk."""
        if wwn and self.wwn:
            return wwn == self.wwn
        if record.capacity and self.capacity and record.capacity != self.capacity:
            return False
        if self.place == _place(record) or {record.time, self.time} & set(_NO_TIME):
            return True
        return abs(record.time - self.time) >= _AT_ONCE_S


class Identities:
    """Gives each record a name that stays with its disk, over readings in the order of time.

    - Serial number and model are one disk. Of two whose World Wide Names or capacities differ, or
      that are under two names within a minute, each is one.
    - Without a serial number (empty, or one that means nothing) the World Wide Name counts.
    - Without both it is the model and the device's name, by which two disks could be taken for one.
    - A record that tells neither, as of a sleeping disk, is of the disk last seen by that name.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], str] = {}
        self._known: dict[str, list[_Known]] = {}

    def name(self, record: SmartRecord) -> str:
        """The disk's name: printable, without blanks."""
        place = (record.device, record.type)
        if not record.model and not record.serial and not record.wwn:
            # A failed open does not tell the type. Members of a RAID differ by nothing else.
            other = None if record.path == "raid" else self._last.get((record.device, ""))
            return self._last.get(place) or other or _joined(*place)
        own = self._own(record)
        self._last[place] = self._last[record.device, ""] = own
        return own

    def _own(self, record: SmartRecord) -> str:
        serial = "" if _NO_SERIAL.fullmatch(record.serial) else record.serial
        wwn = "" if _is_placeholder(record.wwn) else record.wwn
        if not serial and wwn:
            return _joined(record.model, f"wwn-{wwn}")
        if not serial:
            return _joined(record.model, record.device, record.type)
        base = _joined(record.model, serial)
        known = self._known.setdefault(base, [])
        found = [each for each in known if each.is_of(record, wwn)]
        if not found:
            apart = f"wwn-{wwn}" if wwn else _joined(*_place(record))
            name = _joined(base, apart) if known else base
            known.append(_Known(name, wwn, record.capacity, _place(record), record.time))
            return name
        # One with the same World Wide Name or at the same place, else the one that is longest gone.
        one = max(found, key=lambda each: (bool(wwn) and each.wwn == wwn,
                                           each.place == _place(record), -each.time))  # fmt: skip
        one.wwn, one.capacity = wwn or one.wwn, record.capacity or one.capacity
        one.place, one.time = _place(record), record.time
        return one.name


def _is_placeholder(wwn: str) -> bool:
    # The part that is the disk's own is hidden in decimal.
    own = str(int(wwn[7:], 16)) if re.fullmatch(r"[0-9a-f]{16}", wwn) else ""
    return bool(_NO_WWN.fullmatch(wwn) or re.fullmatch(_ROW, own))


def _place(record: SmartRecord) -> tuple[str, str]:
    # A namespace is of its controller's disk.
    return re.sub(r"(/nvme\d+)n\d+$", r"\1", record.device), record.type


def _joined(*words: str) -> str:
    return "_".join(re.sub(r"\s+", "_", word) for word in words if word)
