# SPDX-License-Identifier: Apache-2.0
"""A disk that is slow, fails, and loses its power on command, each time in the same way."""
