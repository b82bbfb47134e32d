# SPDX-License-Identifier: Apache-2.0
"""Network drivers: interfaces (TAP) whose frames a Python class gets in batches, by io_uring."""
