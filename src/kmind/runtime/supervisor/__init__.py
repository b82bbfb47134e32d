# SPDX-License-Identifier: Apache-2.0
"""Many instances: loaded, arbitrated, handed on, and unloaded by one thread."""
