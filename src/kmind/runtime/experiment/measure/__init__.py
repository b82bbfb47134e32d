# SPDX-License-Identifier: Apache-2.0
"""Measures of experiments: metrics, readings, noise and class of the load, extensions' effort."""
