# SPDX-License-Identifier: Apache-2.0
"""The gate: BPF programs that see each write to a knob before the kernel does."""
