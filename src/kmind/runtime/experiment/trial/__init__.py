# SPDX-License-Identifier: Apache-2.0
"""Trials: one value against another, from an approval to a kept value."""
