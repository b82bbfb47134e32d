# SPDX-License-Identifier: Apache-2.0
"""The manifest of a module: its parts, read and checked."""
