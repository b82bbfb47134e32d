# SPDX-License-Identifier: Apache-2.0
# Sphinx: `make docs` builds these pages with warnings as errors.

import re
from pathlib import Path

_INIT = Path(__file__).resolve().parent.parent / "src" / "kmind" / "__init__.py"

project = "kmind"
author = "The kmind authors"
copyright = "The kmind authors, Apache-2.0"
release = re.search(r'__version__ = "(.+?)"', _INIT.read_text())[1]

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"kmind {release}"
