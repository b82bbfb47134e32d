# SPDX-License-Identifier: Apache-2.0
"""The only code that writes to the kernel: policy, journal, actuator, restore."""

from kmind.guard._carry import finish_carrying
from kmind.guard._owner import Owner
from kmind.guard.actuator.actuator import Actuator, Outcome, Yielded
from kmind.guard.drift import Standing, find_standing
from kmind.guard.gate.gate import Gate, GateEvent
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Bound, Policy, RefusedError
from kmind.guard.restore import Restored, restore

__all__ = [
    "Actuator",
    "Bound",
    "Change",
    "Gate",
    "GateEvent",
    "Journal",
    "Outcome",
    "Owner",
    "Policy",
    "RefusedError",
    "Restored",
    "Standing",
    "Yielded",
    "find_standing",
    "finish_carrying",
    "restore",
]
