# SPDX-License-Identifier: Apache-2.0
"""The core object: what all agents share, pinned so that it outlives the daemon."""
