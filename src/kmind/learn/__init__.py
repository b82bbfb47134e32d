# SPDX-License-Identifier: Apache-2.0
"""Recordings: made on a running kernel, looked at, replayed, and learnt from."""
