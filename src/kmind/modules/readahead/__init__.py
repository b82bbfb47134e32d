# SPDX-License-Identifier: Apache-2.0
"""The readahead tuner: an agent that counts, an extension that tries and measures."""
