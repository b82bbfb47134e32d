# SPDX-License-Identifier: Apache-2.0
"""Experiments on knobs: run, judged, recorded, and remembered."""
