# SPDX-License-Identifier: Apache-2.0
"""Findings of detectors and reports of reporters: kept, told and closed by the owner."""
