# SPDX-License-Identifier: Apache-2.0
"""Block devices by ublk: the transport of kernels that have its module."""
