# SPDX-License-Identifier: Apache-2.0
"""The command line: errors become one line on stderr and an exit code.

0 done, 1 failed, 2 usage, 3 daemon not running, 4 not supported by this kernel,
77 permission.
"""

from __future__ import annotations

import os
import sys

from kmind import __version__
from kmind.cli.output import plain, warn, write
from kmind.errors import KmindError
from kmind.util.descriptors import raise_soft_limit

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code.

    Never raises: every error is one line on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and os.geteuid() == 0:
        os.umask(0o077)  # what root writes is for others only where it says so
        raise_soft_limit()
    debug = words[:1] == ["--debug"]
    try:
        code = _run(words[debug:])
        sys.stdout.flush()
    except KmindError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _say(f"unexpected error: {what}; see it whole with: kmind --debug ...", 1)
    return code


def _run(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        write(f"kmind {__version__}\n")
        return 0
    if not words or words[0] in ("-h", "--help"):
        from kmind.cli.help import overview

        (write if words else warn)(overview())
        return 0 if words else 2
    from kmind.cli.parser import parse

    parsed = parse(words)
    if isinstance(parsed, str):
        write(parsed)
        return 0
    command, values = parsed
    return command.run(values)


def _say(message: str, code: int) -> int:
    print("kmind: " + plain(" ".join(message.split())), file=sys.stderr)
    return code
