# SPDX-License-Identifier: Apache-2.0
"""The exception tree of kmind, and the exit codes of the command line.

Every error says what happened, why, and, in ``hint``, what to do next. The
command line prints it as one line and exits with ``exit_code``.
"""

__all__ = [
    "BpfError",
    "BusyError",
    "JournalError",
    "KmindError",
    "KnobError",
    "LaterVersionError",
    "LoadError",
    "ModelError",
    "ModuleError",
    "NotSupportedError",
    "PolicyError",
    "PrivilegeError",
    "RecordingError",
    "RingError",
    "UndoError",
    "UsageError",
]


class KmindError(Exception):
    """Root of all errors that kmind raises on purpose.

    ``hint`` is one sentence that says what to do next; it may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


class UsageError(KmindError):
    """The caller's words are off: an unknown name, a value of the wrong type."""

    exit_code = 2


class NotSupportedError(KmindError):
    """This kernel, or this machine, lacks something that is needed."""

    exit_code = 4


class PrivilegeError(KmindError):
    """The caller may not do this; usually root is needed."""

    exit_code = 77


class BpfError(KmindError):
    """A bpf system call or a libbpf call failed."""


class LoadError(BpfError):
    """The verifier, or the loader, refused an object.

    ``verifier_log`` holds the last lines of the verifier's log, and
    ``source_line`` the C line that it names last, or ``""``.
    """

    exit_code = 4

    def __init__(
        self, message: str, *, hint: str = "", verifier_log: str = "", source_line: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.verifier_log = verifier_log
        self.source_line = source_line


class KnobError(KmindError):
    """A knob could not be read or written, or does not hold what was written."""


class BusyError(KnobError):
    """Another process is writing to the journal just now: no knob was changed; try again."""


class PolicyError(KmindError):
    """A policy file is wrong, or a change is against the policy."""


class JournalError(KmindError):
    """The journal cannot be written; nothing may be changed without it."""


class LaterVersionError(KmindError):
    """A file, or a line, was written by a later kmind, and is left as it is."""


class ModelError(KmindError):
    """A model is damaged, foreign, too large, or made of what an integer model cannot hold."""


class ModuleError(UsageError):
    """A module's manifest or code is wrong; the message names file and line."""


class RecordingError(KmindError):
    """A recording cannot be written or read, or is not what was asked for."""


class RingError(KmindError):
    """An io_uring was refused, is full, closed, or has lost completions."""


class UndoError(KmindError):
    """A change failed half-way, and could not be taken back as a whole."""
