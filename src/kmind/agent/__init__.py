# SPDX-License-Identifier: Apache-2.0
"""The kernel half of an instance: the agent library (C headers) and its backends."""
