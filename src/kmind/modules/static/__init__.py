# SPDX-License-Identifier: Apache-2.0
"""The static tuner: holds one knob of a disk at the value that the operator names."""
