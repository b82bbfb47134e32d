# SPDX-License-Identifier: Apache-2.0
"""The quantiser: from a float model to integer ones, and to a model file."""
