# SPDX-License-Identifier: Apache-2.0
"""A record of each request of a disk, for recordings to learn from."""
