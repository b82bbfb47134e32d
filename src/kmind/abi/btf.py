# SPDX-License-Identifier: Apache-2.0
"""Reader of BTF, the type information that clang puts into BPF objects.

It answers what the layout of a struct is, as a numpy dtype; what value an enumerator
has; where a variable lies in its section; and which tracepoints a kernel has. Format
as in the kernel's Documentation/bpf/btf.rst. The bytes may come from anywhere:
damaged input raises KmindError and nothing else.
"""

from collections.abc import Mapping
from enum import IntEnum
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from kmind.abi import elf
from kmind.errors import KmindError, NotSupportedError

__all__ = ["KERNEL_BTF", "Btf", "Kind", "Member", "Struct", "Variable"]

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_HEADER_SIZE = 24
_MAX_DEPTH = 32  # as in the kernel's own BTF checker
_MAX_SIZE = 1 << 31
_POINTER_SIZE = 8


class Kind(IntEnum):
    """Kinds of BTF types (BTF_KIND_* in the kernel's uapi/linux/btf.h)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Words of 4 bytes that follow a type's own three: (always, for each of its vlen entries).
_EXTRA = {
    Kind.INT: (1, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.DECL_TAG: (1, 0),
    Kind.ENUM64: (0, 3),
}
_ALIASES = frozenset(
    {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG, Kind.VAR}
)
_INT_SIGNED = 1


class Member(NamedTuple):
    """One member of a struct or union.

    ``offset`` and ``size`` are in bytes; ``type`` is a BTF type id. For a bit field
    ``bits`` is its width and ``bit`` its first bit in the byte at ``offset``; for any
    other member both are 0. ``size`` is 0 for a flexible array.
    """

    name: str
    offset: int
    size: int
    type: int
    bits: int = 0
    bit: int = 0


class Struct(NamedTuple):
    """A struct or union: its size in bytes, and its members in order of declaration.

    Members of anonymous structs and unions inside it stand among its own, with their
    offsets from the start of the outer struct.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    is_union: bool

    def member(self, name: str) -> Member:
        """The member called ``name``; KmindError if there is none."""
        for member in self.members:
            if member.name == name:
                return member
        raise KmindError(f"struct {self.name} has no member {name}")


class Variable(NamedTuple):
    """A global variable: byte offset in its section, size in bytes, BTF type id."""

    offset: int
    size: int
    type: int


class Btf:
    """The types of one BTF blob. Made by `from_elf`, `from_raw` or `kernel`."""

    def __init__(
        self,
        data: bytes,
        *,
        what: str = "BTF",
        symbols: Mapping[tuple[str, str], tuple[int, int]] | None = None,
    ) -> None:
        self._what = what
        # (section, variable) -> (offset, size): in an object file that was not linked,
        # clang leaves the offsets of variables to the symbol table.
        self._symbols = symbols or {}
        self._struct_cache: dict[int, Struct] = {}
        self._dtype_cache: dict[int, np.dtype[np.void]] = {}
        self._words, self._strings = self._split(data)
        self._starts = self._scan()

    @classmethod
    def from_raw(cls, data: bytes, what: str = "BTF") -> "Btf":
        """Read a BTF blob; ``what`` names it in errors. Raises KmindError if damaged."""
        return cls(data, what=what)

    @classmethod
    def from_elf(cls, path: str | Path) -> "Btf":
        """Read the ``.BTF`` section of a BPF object file.

        Raises KmindError if the file cannot be read, or is damaged, or has no BTF.
        """
        try:
            return cls.from_elf_bytes(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise KmindError(f"cannot read {path}: {error.strerror}") from None

    @classmethod
    def from_elf_bytes(cls, data: bytes, what: str = "object") -> "Btf":
        """Like `from_elf`, for a file that is in memory."""
        sections = elf.read_sections(memoryview(data), what)
        btf = next((s for s in sections if s.name == ".BTF"), None)
        if btf is None:
            raise KmindError(f"{what} holds no BTF", hint="compile it with clang -g")
        names = {s.number: s.name for s in sections}
        symbols = {
            (names[s.section], s.name): (s.offset, s.size)
            for s in elf.read_symbols(sections, what)
            if s.section in names
        }
        return cls(bytes(btf.data), what=what, symbols=symbols)

    @classmethod
    def kernel(cls) -> "Btf":
        """The BTF of the running kernel; NotSupportedError if it has none.

        It is read once a process: some 6 MB, a fifth of a second.
        """
        return _kernel_btf(KERNEL_BTF)

    # Names to answers.

    @cached_property
    def structs(self) -> tuple[str, ...]:
        """The names of all structs and unions that have one."""
        return self._names(Kind.STRUCT, Kind.UNION)

    def struct(self, name: str) -> Struct:
        """The struct or union called ``name``, or the typedef of one."""
        return self._struct(self._struct_id(name), 0)

    @cached_property
    def enums(self) -> Mapping[str, Mapping[str, int]]:
        """All enums that have a name: enumerators and their values."""
        return MappingProxyType(
            {
                self._name(i): self._enumerators(i)
                for i in range(1, len(self._starts))
                if self._kind(i) in (Kind.ENUM, Kind.ENUM64) and self._name(i)
            }
        )

    @cached_property
    def constants(self) -> Mapping[str, int]:
        """The enumerators of all enums, anonymous ones too, by their own names."""
        values: dict[str, int] = {}
        for i in range(1, len(self._starts)):
            if self._kind(i) in (Kind.ENUM, Kind.ENUM64):
                values.update(self._enumerators(i))
        return MappingProxyType(values)

    @cached_property
    def sections(self) -> Mapping[str, Mapping[str, Variable]]:
        """The variables in each data section: ``{".rodata": {"nr_cpus": Variable(...)}}``.

        Offsets are those in the section's map; they need the file's symbol table, so
        read them from a BTF made by `from_elf`.
        """
        return MappingProxyType(
            {
                self._name(i): self._variables(i)
                for i in range(1, len(self._starts))
                if self._kind(i) is Kind.DATASEC
            }
        )

    def dtype(self, name: str) -> np.dtype[np.void]:
        """The layout of struct ``name`` as a numpy structured dtype.

        Offsets and itemsize are those of C. Enums become integers, pointers and bools
        unsigned integers, arrays of ``char`` fixed byte strings, unions overlapping
        fields; a flexible array at the end is left out. Raises KmindError for bit
        fields, which numpy cannot express.
        """
        return self._struct_dtype(self._struct_id(name), 0)

    def tracepoint_args(self, name: str) -> int | None:
        """Return the number of arguments of tracepoint ``name``; None if the kernel lacks it.

        The kernel declares ``typedef void (*btf_trace_NAME)(void *, ...)`` for each.
        """
        type_id = self.find(f"btf_trace_{name}", Kind.TYPEDEF)
        if type_id is None:
            return None
        pointer = self.resolve(type_id)
        if self._kind(pointer) is not Kind.PTR:
            return None
        proto = self.resolve(self._words[self._starts[pointer] + 2])
        if self._kind(proto) is not Kind.FUNC_PROTO:
            return None
        return max(self._vlen(proto) - 1, 0)

    # Type ids to answers.

    def find(self, name: str, kind: Kind) -> int | None:
        """The id of the type called ``name`` of that kind, or None."""
        return self._index.get((name, kind))

    def resolve(self, type_id: int) -> int:
        """Follow typedefs, const, volatile, restrict, type tags and variables to the type."""
        for _ in range(_MAX_DEPTH):
            if self._kind(type_id) not in _ALIASES:
                return type_id
            type_id = self._words[self._starts[type_id] + 2]
        raise self._damaged(f"type {type_id} never ends")

    def kind_of(self, type_id: int) -> Kind:
        """The kind of a type, after `resolve`."""
        return self._kind(self.resolve(type_id))

    def struct_of(self, type_id: int) -> Struct:
        """The struct or union behind a type id."""
        return self._struct(type_id, 0)

    def size_of(self, type_id: int) -> int:
        """The size of a type in bytes; 0 for void, functions and flexible arrays."""
        return self._size(type_id, 0)

    def array_of(self, type_id: int) -> tuple[int, int]:
        """Element type id and element count; ``(type_id, 1)`` if it is no array."""
        type_id = self.resolve(type_id)
        if self._kind(type_id) is not Kind.ARRAY:
            return type_id, 1
        start = self._starts[type_id]
        return self._words[start + 3], self._words[start + 5]

    def is_signed(self, type_id: int) -> bool:
        """True if an integer or enum is signed."""
        type_id = self.resolve(type_id)
        start, kind = self._starts[type_id], self._kind(type_id)
        if kind is Kind.INT:
            return bool(self._words[start + 3] >> 24 & _INT_SIGNED)
        return kind in (Kind.ENUM, Kind.ENUM64) and bool(self._words[start + 1] >> 31)

    # Parsing of the blob

    def _split(self, data: bytes) -> tuple[memoryview, memoryview]:
        view = memoryview(data)
        if len(view) < _HEADER_SIZE:
            raise self._damaged(f"{len(view)} bytes are less than a header")
        if int.from_bytes(view[:2], "little") != _MAGIC or view[2] != 1:
            raise KmindError(f"{self._what} is not BTF of version 1 in little-endian order")
        header_size, type_off, type_len, str_off, str_len = (
            int.from_bytes(view[i : i + 4], "little") for i in range(4, _HEADER_SIZE, 4)
        )
        types_end = header_size + type_off + type_len
        strings_end = header_size + str_off + str_len
        if header_size < _HEADER_SIZE or max(types_end, strings_end) > len(view):
            raise self._damaged("it is cut short")
        if type_len % 4:
            raise self._damaged("its types are not whole words")
        words = bytes(view[types_end - type_len : types_end])
        return memoryview(words).cast("I"), view[strings_end - str_len : strings_end]

    def _scan(self) -> list[int]:
        # The index of each type's first word; type 0, void, points to three zero words.
        words = memoryview(bytes(12) + bytes(self._words)).cast("I")
        self._words = words
        starts = [0]
        at, end = 3, len(words)
        extra = [_EXTRA.get(kind, (0, 0)) for kind in Kind]
        while at < end:
            if at + 3 > end:
                raise self._damaged("its last type is cut short")
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            if not 0 < kind < len(extra):
                raise self._damaged(f"type {len(starts)} is of unknown kind {kind}")
            starts.append(at)
            always, size = extra[kind]
            at += 3 + always + size * (info & 0xFFFF)
        if at != end:
            raise self._damaged("its last type is cut short")
        return starts

    @cached_property
    def _index(self) -> dict[tuple[str, Kind], int]:
        index: dict[tuple[str, Kind], int] = {}
        for type_id in range(1, len(self._starts)):
            if self._words[self._starts[type_id]]:
                index.setdefault((self._name(type_id), self._kind(type_id)), type_id)
        return index

    def _names(self, *kinds: Kind) -> tuple[str, ...]:
        return tuple(name for name, kind in self._index if kind in kinds)

    def _kind(self, type_id: int) -> Kind:
        if type_id >= len(self._starts):
            raise self._damaged(f"there is no type {type_id}")
        return Kind(self._words[self._starts[type_id] + 1] >> 24 & 0x1F)

    def _vlen(self, type_id: int) -> int:
        return self._words[self._starts[type_id] + 1] & 0xFFFF

    def _name(self, type_id: int) -> str:
        return self._string(self._words[self._starts[type_id]])

    def _string(self, offset: int) -> str:
        return elf.string_at(self._strings, offset, self._what) if offset else ""

    def _entries(self, type_id: int, width: int) -> list[tuple[int, ...]]:
        first = self._starts[type_id] + 3
        last = first + width * self._vlen(type_id)
        return [tuple(self._words[i : i + width]) for i in range(first, last, width)]

    def _struct_id(self, name: str) -> int:
        for kind in (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF):
            type_id = self.find(name, kind)
            if type_id is not None:
                return self.resolve(type_id)
        raise KmindError(f"{self._what} has no struct {name}")

    def _struct(self, type_id: int, depth: int) -> Struct:
        type_id = self.resolve(type_id)
        if type_id in self._struct_cache:
            return self._struct_cache[type_id]
        kind, name = self._kind(type_id), self._name(type_id)
        if kind not in (Kind.STRUCT, Kind.UNION):
            raise KmindError(f"{self._what}: {name or type_id} is not a struct")
        if depth > _MAX_DEPTH:
            raise self._damaged(f"struct {name} is nested too deep")
        start = self._starts[type_id]
        size, bit_fields = self._words[start + 2], self._words[start + 1] >> 31
        members: list[Member] = []
        for name_off, member_type, offset in self._entries(type_id, 3):
            bits, at_bit = (offset >> 24, offset & 0xFFFFFF) if bit_fields else (0, offset)
            at, bit = divmod(at_bit, 8)
            member = Member(
                self._string(name_off), at, self._size(member_type, depth), member_type, bits, bit
            )
            last = at + (-(-(bit + bits) // 8) if bits else member.size)
            if last > size or (bit and not bits):
                raise self._damaged(f"member {member.name} lies outside of struct {name}")
            if not member.name and self.kind_of(member_type) in (Kind.STRUCT, Kind.UNION):
                inner = self._struct(member_type, depth + 1)
                members += [m._replace(offset=m.offset + at) for m in inner.members]
            elif member.name:
                members.append(member)
        if len({m.name for m in members}) != len(members):
            raise self._damaged(f"struct {name} has two members of one name")
        struct = Struct(name, size, tuple(members), kind is Kind.UNION)
        self._struct_cache[type_id] = struct
        return struct

    def _size(self, type_id: int, depth: int) -> int:
        type_id = self.resolve(type_id)
        kind, start = self._kind(type_id), self._starts[type_id]
        if depth > _MAX_DEPTH:
            raise self._damaged(f"type {type_id} is nested too deep")
        if kind is Kind.PTR:
            return _POINTER_SIZE
        if kind is Kind.ARRAY:
            size = self._words[start + 5] * self._size(self._words[start + 3], depth + 1)
        elif kind in (Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO, Kind.DECL_TAG):
            size = 0
        else:
            size = self._words[start + 2]
        if size > _MAX_SIZE:
            raise self._damaged(f"type {type_id} has {size} bytes")
        return size

    def _enumerators(self, type_id: int) -> Mapping[str, int]:
        signed = self.is_signed(type_id)
        wide = self._kind(type_id) is Kind.ENUM64
        values: dict[str, int] = {}
        for entry in self._entries(type_id, 3 if wide else 2):
            value = entry[1] | (entry[2] << 32 if wide else 0)
            top = 1 << (64 if wide else 32)
            values[self._string(entry[0])] = value - top if signed and value >= top // 2 else value
        return MappingProxyType(values)

    def _variables(self, type_id: int) -> Mapping[str, Variable]:
        section = self._name(type_id)
        variables: dict[str, Variable] = {}
        for var, offset, size in self._entries(type_id, 3):
            if self._kind(var) is not Kind.VAR:
                raise self._damaged(f"section {section} holds something that is no variable")
            name = self._name(var)
            offset, _ = self._symbols.get((section, name), (offset, 0))
            variables[name] = Variable(offset, size, self._words[self._starts[var] + 2])
        return MappingProxyType(variables)

    def _struct_dtype(self, type_id: int, depth: int) -> np.dtype[np.void]:
        if type_id in self._dtype_cache:
            return self._dtype_cache[type_id]
        struct = self._struct(type_id, 0)
        kept = [m for m in struct.members if m.size]
        for member in kept:
            if member.bits:
                raise KmindError(
                    f"{self._what}: {struct.name}.{member.name} is a bit field",
                    hint="use whole integers in shared structs",
                )
        try:
            dtype = np.dtype(
                {
                    "names": [m.name for m in kept],
                    "formats": [self._format(m.type, depth) for m in kept],
                    "offsets": [m.offset for m in kept],
                    "itemsize": struct.size,
                }
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise self._damaged(f"struct {struct.name} has no layout: {error}") from None
        self._dtype_cache[type_id] = dtype
        return dtype

    def _format(self, type_id: int, depth: int) -> np.dtype[np.generic]:
        type_id = self.resolve(type_id)
        kind, size = self._kind(type_id), self.size_of(type_id)
        if depth > _MAX_DEPTH:
            raise self._damaged(f"type {type_id} is nested too deep")
        if kind in (Kind.STRUCT, Kind.UNION):
            return self._struct_dtype(type_id, depth + 1)
        if kind is Kind.ARRAY:
            element, count = self.array_of(type_id)
            if self._name(self.resolve(element)) == "char":
                return np.dtype(f"S{count}")
            inner = self._format(element, depth + 1)
            return np.dtype((inner.base, (count, *inner.shape)))
        if kind is Kind.FLOAT and size in (4, 8):
            return np.dtype(f"<f{size}")
        if kind in (Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.PTR) and size in (1, 2, 4, 8):
            return np.dtype(f"<{'i' if self.is_signed(type_id) else 'u'}{size}")
        return np.dtype(f"V{size}")

    def _damaged(self, why: str) -> KmindError:
        return KmindError(f"{self._what} is damaged: {why}")


@cache
def _kernel_btf(path: Path) -> Btf:
    try:
        return Btf.from_raw(path.read_bytes(), str(path))
    except OSError as error:
        raise NotSupportedError(
            f"this kernel shows no BTF: {path}: {error.strerror}",
            hint="run a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ) from None
