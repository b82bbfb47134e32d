# SPDX-License-Identifier: Apache-2.0
"""The daemon's logs, and how much of them one source may have."""
