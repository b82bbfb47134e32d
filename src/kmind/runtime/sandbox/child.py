# SPDX-License-Identifier: Apache-2.0
"""The extension's process: ``python -m kmind.runtime.sandbox.child FD [FILE...]``.

FD is a pipe with a ``ChildConfig``. Each FILE is the ``cgroup.procs`` of a cgroup that
the process enters before it imports anything, so that all that it takes is counted
there. The rest is in ``kmind.runtime.sandbox.entrypoint``.
"""

# Little is imported up here, for that reason.
import os
import sys
from collections.abc import Sequence

from kmind.runtime.sandbox.exit_codes import EXIT_SETUP

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run one extension until the process is killed, or its code raises."""
    fd, *cgroups = arguments
    try:
        for path in cgroups:
            _write(path, b"0")  # the writer itself
    except OSError as error:
        print(f"the extension cannot enter its cgroup: {error}", file=sys.stderr)
        return EXIT_SETUP
    from kmind.runtime.sandbox import entrypoint

    return entrypoint.run(int(fd))


def _write(path: str, data: bytes) -> None:
    # Not by open(): that would make the file where the cgroup is gone.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
