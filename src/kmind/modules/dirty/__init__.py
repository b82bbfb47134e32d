# SPDX-License-Identifier: Apache-2.0
"""The dirty predictor: predicts throttling of writers, and starts writeback earlier."""
