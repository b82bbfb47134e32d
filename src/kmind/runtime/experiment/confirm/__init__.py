# SPDX-License-Identifier: Apache-2.0
"""Confirmations: settings that a module has measured itself, judged by the owner."""
