# SPDX-License-Identifier: Apache-2.0
"""Privileges, files and system calls that an extension gives up, and how."""
