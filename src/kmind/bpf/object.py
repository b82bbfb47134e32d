# SPDX-License-Identifier: Apache-2.0
"""BPF object files: opened, adjusted, loaded into the kernel, closed."""

import ctypes
import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType

from kmind.abi.btf import Btf, Kind, Variable
from kmind.bpf._errors import error_from, strerror
from kmind.bpf._libbpf import Handle, OpenOptions, captured, lib, pointer_or_raise
from kmind.bpf.arena import check_place
from kmind.bpf.machine import capabilities, reads_kernel_memory
from kmind.bpf.map import MAP_TYPE_ARENA, Map
from kmind.bpf.program import Link, Program
from kmind.errors import BpfError, KmindError, LoadError, NotSupportedError, PrivilegeError

__all__ = ["BpfObject", "RodataValue"]

RodataValue = int | bytes | Sequence[int]

_LOG_LINES = 20
_LOG = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*)-- END PROG LOAD LOG --", re.DOTALL)
_SOURCE_LINE = re.compile(r"^; (.*) @ (\S+:\d+)$", re.MULTILINE)
_PROGRAM = re.compile(r"prog '([^']+)'")


class BpfObject:
    """One BPF object file, from open to close. One thread at a time.

    Open it, change what must be changed before load (`set_rodata`, `set_arena`,
    `Map.reuse_fd`, `Program.set_autoload`), `load`, attach programs. `close`, or the end
    of a ``with`` block, detaches and frees all that is not pinned.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.loaded = False
        self.refused_program = ""
        """After a `load` that failed, the program that the kernel refused; "" if it was none."""
        try:
            self._data = self.path.read_bytes()
        except OSError as error:
            raise BpfError(f"cannot read {path}: {error.strerror}") from None
        self.btf = Btf.from_elf_bytes(self._data, str(path))
        name = self.path.name.split(".")[0]
        options = OpenOptions(sz=ctypes.sizeof(OpenOptions), object_name=name.encode())
        with captured() as messages:
            pointer = lib().bpf_object__open_mem(self._data, len(self._data), ctypes.byref(options))
        hint = messages[0].strip() if messages else None
        self._handle = Handle(pointer_or_raise(pointer, f"cannot open {path}", hint), str(path))
        self._links: list[Link] = []
        self.maps: Mapping[str, Map] = MappingProxyType(
            {m.name: m for m in map(Map, self._members("bpf_object__next_map"))}
        )
        self.programs: Mapping[str, Program] = MappingProxyType(
            {
                p.name: p
                for p in (
                    Program(member, self._links)
                    for member in self._members("bpf_object__next_program")
                )
            }
        )

    def set_rodata(self, values: Mapping[str, RodataValue]) -> None:
        """Set ``const volatile`` variables; before load only.

        An int for an integer, a sequence of ints for an array of them, bytes for
        anything. What is shorter than the variable is filled up with zeros. Raises
        BpfError for a name that the object has not, or a value that does not fit.
        """
        self._require_unloaded("change variables of")
        for name, value in values.items():
            section, variable = self._variable(name)
            data = self._encode(name, variable, value)
            size = ctypes.c_size_t()
            start = lib().bpf_map__initial_value(
                self._section_map(section)._unloaded(), ctypes.byref(size)
            )
            if start is None or variable.offset + variable.size > size.value:
                raise BpfError(f"{self.path}: variable {name} lies outside of {section}")
            ctypes.memmove(start + variable.offset, data, variable.size)

    def set_arena(self, map_name: str, address: int, pages: int) -> None:
        """Give an arena its address in every process, and its size; before load only.

        The kernel wants the address before it can verify programs that use the arena.
        `load` maps no arena, whichever libbpf is installed: map it with `kmind.bpf.map_arena`.
        """
        self._require_unloaded("place an arena of")
        arena = self.maps.get(map_name)
        if arena is None or arena.type != MAP_TYPE_ARENA:
            raise BpfError(f"{self.path} has no arena {map_name}")
        check_place(address, pages)
        arena.set_extra(address)
        arena.set_max_entries(pages)

    def load(self) -> None:
        """Make its maps, and load its programs into the kernel.

        Raises LoadError, with the end of the verifier's log and the source line, if the
        verifier refuses a program; PrivilegeError or NotSupportedError if the kernel
        refuses before that. After any of these only `close` makes sense.
        """
        self._require_unloaded("load")
        for map_ in self.maps.values():
            if map_.type == MAP_TYPE_ARENA:
                map_.create()
        with captured() as messages:
            result: int = lib().bpf_object__load(self._handle.get())
        if result < 0:
            raise self._load_error(result, messages)
        self.loaded = True

    def close(self) -> None:
        """Detach its programs and free all that is not pinned. Safe to repeat."""
        for link in self._links:
            link.close()
        pointer = self._handle.take()
        if pointer is not None:
            lib().bpf_object__close(pointer)

    def __enter__(self) -> "BpfObject":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _members(self, function: str) -> Iterator[partial[int]]:
        # Each as a call that gives its pointer, or raises once the object is closed.
        pointer = None
        while pointer := getattr(lib(), function)(self._handle.get(), pointer):
            yield partial(self._member, pointer)

    def _member(self, pointer: int) -> int:
        self._handle.get()
        return pointer

    def _require_unloaded(self, what: str) -> None:
        if self.loaded:
            raise BpfError(f"cannot {what} {self.path}: it is loaded already")

    def _variable(self, name: str) -> tuple[str, Variable]:
        for section, variables in self.btf.sections.items():
            if section.startswith(".rodata") and name in variables:
                return section, variables[name]
        raise BpfError(
            f"{self.path} has no read-only variable {name}", hint="declare it const volatile"
        )

    def _section_map(self, section: str) -> Map:
        for name, candidate in self.maps.items():
            if name.endswith(section):
                return candidate
        raise BpfError(f"{self.path} has no map for section {section}")

    def _encode(self, name: str, variable: Variable, value: RodataValue) -> bytes:
        if isinstance(value, (bytes, bytearray)):
            data = bytes(value)
        else:
            element, count = self.btf.array_of(variable.type)
            numbers = [value] if isinstance(value, int) else list(value)
            whole = count == 1 or not isinstance(value, int)
            if not whole or self.btf.kind_of(element) not in _NUMBERS:
                raise BpfError(f"{self.path}: variable {name} does not take {value!r}")
            size, signed = self.btf.size_of(element), self.btf.is_signed(element)
            try:
                data = b"".join(n.to_bytes(size, "little", signed=signed) for n in numbers)
            except OverflowError:
                raise BpfError(
                    f"{self.path}: {value!r} does not fit {name}, integers of {size} bytes"
                ) from None
        if len(data) > variable.size:
            raise BpfError(f"{self.path}: {len(data)} bytes do not fit {name}: {variable.size}")
        return data.ljust(variable.size, b"\0")

    def _load_error(self, result: int, messages: list[str]) -> KmindError:
        log = next(
            (match[1].strip() for match in map(_LOG.search, reversed(messages)) if match), ""
        )
        failure = next((m.strip() for m in messages if "failed" in m), "")
        program = _PROGRAM.search(failure)
        self.refused_program = program[1] if program else ""
        what = f"cannot load {program[1] if program else 'the maps'} of {self.path.name}"
        if refusal := _refusal(what):
            return refusal
        if not log and abs(result) == errno.ESRCH:
            return LoadError(f"{what}: {failure or strerror(result)}", hint="see kmind doctor")
        lines = log.splitlines()
        complaint = next((s for s in reversed(lines) if not s.startswith("processed ")), "")
        if not complaint:  # refused before, or after, the verifier looked at it
            return error_from(result, what, failure or None)
        found = _SOURCE_LINE.findall(log)
        source = f"{found[-1][1]}: {found[-1][0].strip()}" if found else ""
        return LoadError(
            f"{what}: the verifier says: {complaint}",
            hint=f"at {source}" if source else "",
            verifier_log="\n".join(lines[-_LOG_LINES:]),
            source_line=source,
        )


def _refusal(what: str) -> KmindError | None:
    """The error where this process, and not the object, is why nothing can be loaded."""
    # The verifier's complaint would be about code that only the privileged may write.
    try:
        capabilities()
    except PrivilegeError as error:
        return PrivilegeError(f"{what}: {error.args[0]}", hint=error.hint)
    with suppress(PrivilegeError):  # then the refusal that came first says it
        if not reads_kernel_memory():
            return NotSupportedError(
                f"{what}: programs may not read kernel memory (lockdown=confidentiality)",
                hint="boot with lockdown=integrity, or none",
            )
    return None


_NUMBERS = frozenset({Kind.INT, Kind.ENUM, Kind.ENUM64})
