# SPDX-License-Identifier: Apache-2.0
"""Knobs that an instance has set: until when, and the way back."""
