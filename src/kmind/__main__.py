# SPDX-License-Identifier: Apache-2.0
"""``python -m kmind`` is ``kmind``."""

import sys

from kmind.cli.main import main

__all__: list[str] = []

sys.exit(main())
