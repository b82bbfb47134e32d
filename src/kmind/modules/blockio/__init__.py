# SPDX-License-Identifier: Apache-2.0
"""The slow I/O detector: tells a disk that has become slow from one that is busy."""
