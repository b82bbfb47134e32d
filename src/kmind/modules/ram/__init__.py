# SPDX-License-Identifier: Apache-2.0
"""The driver ``ram``: a disk in memory."""
