# SPDX-License-Identifier: Apache-2.0
"""The I/O latency predictor: says of each request, when it is issued, whether it will be slow."""
