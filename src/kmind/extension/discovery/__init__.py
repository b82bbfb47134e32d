# SPDX-License-Identifier: Apache-2.0
"""Modules on this machine: found, configured, described, and loaded."""
