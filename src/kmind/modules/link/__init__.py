# SPDX-License-Identifier: Apache-2.0
"""A network link: delay, jitter, loss, rate or a trace, between two interfaces."""
