# SPDX-License-Identifier: Apache-2.0
"""Loads on a machine's disks and memory, real and simulated, with known access patterns."""
