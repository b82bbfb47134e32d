# SPDX-License-Identifier: Apache-2.0
"""The commands: each file NAME.py declares ``COMMAND``, the record of ``kmind NAME``.

What does the work is in ``kmind.cli``, and is imported only when the command runs: help reads
all of these files, so they import little.
"""
