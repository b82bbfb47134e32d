# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of supervisor and its neighbours."""

from sample_module import MANIFEST


def ranked(priority: int) -> str:
    """The sample's manifest, with a priority for its knob."""
    return MANIFEST.replace(
        'name = "block.read_ahead_kb"\n', f'name = "block.read_ahead_kb"\npriority = {priority}\n'
    )
