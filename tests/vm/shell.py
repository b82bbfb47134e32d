# SPDX-License-Identifier: Apache-2.0
"""``python -m vm.shell 6.1``: a shell on a guest's console, here; it ends with the shell."""

import sys

from vm.guest import Guest, missing

if __name__ == "__main__":
    if reason := missing(sys.argv[1]):
        raise SystemExit(reason)
    raise SystemExit(Guest(sys.argv[1]).shell())
