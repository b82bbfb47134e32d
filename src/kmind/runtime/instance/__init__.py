# SPDX-License-Identifier: Apache-2.0
"""One instance: its agent, its extension's process, and what it holds."""
