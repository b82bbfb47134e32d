# SPDX-License-Identifier: Apache-2.0
"""The extension of an instance: started, heard, remembered, and ended."""
