# SPDX-License-Identifier: Apache-2.0
"""Agents in the running kernel."""
