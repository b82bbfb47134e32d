# SPDX-License-Identifier: Apache-2.0
"""kmind: machine learning in user space that watches and tunes a stock Linux kernel."""

__version__ = "0.1.0"
__all__ = ["__version__"]
