# SPDX-License-Identifier: Apache-2.0
"""The extension's process: started, confined, limited, and read."""
