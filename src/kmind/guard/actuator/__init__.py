# SPDX-License-Identifier: Apache-2.0
"""The actuator: changes knobs, holds them, and puts them back."""
