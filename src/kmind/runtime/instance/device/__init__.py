# SPDX-License-Identifier: Apache-2.0
"""The device of a driver, as its owner has it: made, leased, recovered, handed on, ended."""
