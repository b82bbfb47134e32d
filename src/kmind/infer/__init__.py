# SPDX-License-Identifier: Apache-2.0
"""From a float model to an integer one that an agent evaluates in the kernel."""
