# SPDX-License-Identifier: Apache-2.0
"""The only code that writes to the kernel: policy, journal, actuator, restore."""

from kmind.guard.policy import Bound, Policy, RefusedError

__all__ = ["Bound", "Policy", "RefusedError"]
