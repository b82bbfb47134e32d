# SPDX-License-Identifier: Apache-2.0
"""An NVMe controller driven from Python, and its namespace as a block driver."""
