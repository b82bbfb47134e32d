# SPDX-License-Identifier: Apache-2.0
"""SMART and NVMe logs: the output of ``smartctl --json`` (7.0 and later) in one record a disk.

``document`` reads hostile bytes, ``record`` makes a ``SmartRecord`` of them for SATA, SAS, NVMe,
USB and RAID paths, ``judge`` says what a record means, ``identity`` which disk it is, ``follow``
when somebody is told. ``live`` runs smartctl itself.
"""
