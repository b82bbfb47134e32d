# SPDX-License-Identifier: Apache-2.0
"""Exit codes of the extension's process."""

__all__ = ["EXIT_MODULE", "EXIT_SETUP"]

EXIT_MODULE = 70
"""The module's code raised an exception."""

EXIT_SETUP = 71
"""The process could not be set up; no code of the module ran."""
