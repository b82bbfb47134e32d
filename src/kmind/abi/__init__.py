# SPDX-License-Identifier: Apache-2.0
"""The layout that agents and extensions share, and a reader of BTF."""
