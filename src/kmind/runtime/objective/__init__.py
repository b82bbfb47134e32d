# SPDX-License-Identifier: Apache-2.0
"""Numbers to be made better, and who polls them."""
