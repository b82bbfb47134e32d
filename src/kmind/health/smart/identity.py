# SPDX-License-Identifier: Apache-2.0
"""The disk that a record is of: by serial number and model, by name only where there is none."""

from __future__ import annotations

import re

from kmind.health.smart.record import SmartRecord

__all__ = ["Identities"]

# Numbers that makers of bridges and cheap disks leave in: one repeated character, or a row of them.
_NO_SERIAL = re.compile(
    r"(.)\1*|0*1?234567890?(abcdef)?|redacted|unknown|none|n/?a|default.*", re.I
)


class Identities:
    """Gives each record a name that stays with its disk, over readings in the order of time.

    - Serial number and model are one disk. Of two whose World Wide Names differ, each is one.
    - Without a serial number (empty, or one that means nothing) the World Wide Name counts.
    - Without both it is the model and the device's name, by which two disks could be taken for one.
    - A record that tells neither, as of a sleeping disk, is of the disk last seen by that name.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], str] = {}
        self._wwns: dict[str, list[str]] = {}

    def name(self, record: SmartRecord) -> str:
        """The disk's name: printable, without blanks."""
        place = (record.device, record.type)
        if not record.model and not record.serial and not record.wwn:
            return self._last.get(place) or self._last.get((record.device, "")) or _joined(*place)
        own = self._own(record)
        # A failed open does not even tell the type.
        self._last[place] = self._last[record.device, ""] = own
        return own

    def _own(self, record: SmartRecord) -> str:
        serial = "" if _NO_SERIAL.fullmatch(record.serial) else record.serial
        if not serial and record.wwn:
            return _joined(record.model, f"wwn-{record.wwn}")
        if not serial:
            return _joined(record.model, record.device, record.type)
        base = _joined(record.model, serial)
        if not record.wwn:
            return base
        wwns = self._wwns.setdefault(base, [])
        if record.wwn not in wwns:
            wwns.append(record.wwn)
        # The first of a serial number has the plain name, also when its record lacks the WWN.
        return base if wwns[0] == record.wwn else _joined(base, f"wwn-{record.wwn}")


def _joined(*words: str) -> str:
    return "_".join(re.sub(r"\s+", "_", word) for word in words if word)
