# SPDX-License-Identifier: Apache-2.0
"""Drivers: serve a device from user space. Authors write no C: the agent is that of its kind."""

from kmind.classes._base import DEVICE, ModuleClass

__all__ = ["CLASS"]

CLASS = ModuleClass(
    "driver",
    help="Serves a device: the kernel's requests come to a Python class, which answers them.",
    services=(DEVICE,),
)
