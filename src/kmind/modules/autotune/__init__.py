# SPDX-License-Identifier: Apache-2.0
"""Searches knobs for the values that make an objective best, and keeps what is proven."""
