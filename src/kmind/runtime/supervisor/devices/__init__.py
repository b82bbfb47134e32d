# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go, and the modules that are loaded for them."""
