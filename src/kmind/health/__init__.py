# SPDX-License-Identifier: Apache-2.0
"""Health of disks: what they say of themselves, and what follows from it."""
