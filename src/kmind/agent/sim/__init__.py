# SPDX-License-Identifier: Apache-2.0
"""Agents without a kernel: the same rings, the same admission, in Python."""
