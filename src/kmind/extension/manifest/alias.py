# SPDX-License-Identifier: Apache-2.0
"""Patterns of the devices that a module serves: ``SUBSYSTEM:NAME[,PROPERTY=VALUE]...``.

NAME and each VALUE are globs as in the shell (``*``, ``?``, ``[ab]``), NAME is the device's
directory in sysfs, and PROPERTY one that the kernel sends with its event:
``block:nvme*n*,DEVTYPE=disk``. Without ``ACTION=`` only ``add`` events match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["Alias"]

_PATTERN = re.compile(r"([a-z][a-z0-9_-]*):([^\s,]+)((?:,[A-Z][A-Z0-9_]*=[^\s,]*)*)")


@dataclass(frozen=True)
class Alias:
    """One pattern over device events."""

    subsystem: str
    name: str
    properties: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Alias:
        """The pattern that ``text`` stands for; ValueError that shows one if it is none."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no SUBSYSTEM:NAME[,PROPERTY=VALUE]..., such as block:sd*,DEVTYPE=disk"
            )
        pairs = [pair.partition("=") for pair in match[3].split(",")[1:]]
        return cls(match[1], match[2], tuple((name, value) for name, _, value in pairs))

    def matches(self, subsystem: str, name: str, properties: Mapping[str, str]) -> bool:
        """True if the pattern matches a device event.

        A property that the event lacks never matches.
        """
        wanted = dict(self.properties)
        action = wanted.pop("ACTION", "add")
        return (
            subsystem == self.subsystem
            and fnmatchcase(properties.get("ACTION", ""), action)
            and fnmatchcase(name, self.name)
            and all(
                key in properties and fnmatchcase(properties[key], value)
                for key, value in wanted.items()
            )
        )

    def __str__(self) -> str:
        return ",".join(
            [f"{self.subsystem}:{self.name}", *(f"{key}={value}" for key, value in self.properties)]
        )
