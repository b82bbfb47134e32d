# SPDX-License-Identifier: Apache-2.0
"""The dirty predictor: foresees writers being throttled, and lets writeback begin sooner."""
