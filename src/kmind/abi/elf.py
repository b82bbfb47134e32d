# SPDX-License-Identifier: Apache-2.0
"""Just enough of ELF64 to find the sections and symbols of a BPF object.

Layout as in elf(5). Only little-endian 64-bit files are read, for clang makes no
other for the machines that kmind runs on.
"""

import struct
from typing import NamedTuple

from kmind.errors import KmindError

__all__ = [
    "Relocation",
    "Section",
    "Symbol",
    "read_relocations",
    "read_sections",
    "read_symbols",
    "string_at",
]

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_SHT_SYMTAB = 2
_SHT_RELA = 4
_SHT_NOBITS = 8
_SHT_REL = 9
_SHF_EXECINSTR = 4


class Section(NamedTuple):
    """One section: its number in the table, its type, its size, and its bytes.

    ``link`` and ``info`` are numbers of other sections: of one with relocations, ``info`` is
    the section that they change. ``data`` is empty for one that takes no room in the file
    (``.bss``).
    """

    number: int
    name: str
    type: int
    size: int
    link: int
    info: int
    flags: int
    data: memoryview

    @property
    def has_code(self) -> bool:
        """True if the section holds instructions."""
        return bool(self.flags & _SHF_EXECINSTR)


class Symbol(NamedTuple):
    """One symbol: the index of its section, the offset in it, and its size in bytes."""

    name: str
    section: int
    offset: int
    size: int


class Relocation(NamedTuple):
    """A place that a symbol's address goes to: the section, the offset in it, the symbol."""

    section: int
    offset: int
    symbol: Symbol


def read_sections(data: memoryview, what: str) -> list[Section]:
    """All sections of the ELF file ``data``; ``what`` names the file in errors.

    Raises KmindError if it is not a little-endian ELF64 file, or is cut short.
    """
    try:
        header = _HEADER.unpack_from(data)
    except struct.error:
        raise KmindError(f"{what} is not an ELF file: only {len(data)} bytes") from None
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise KmindError(
            f"{what} is not a little-endian ELF64 file",
            hint="give a BPF object made by clang -target bpf",
        )
    table, entry_size, count, names_index = header[6], header[11], header[12], header[13]
    if entry_size != _SECTION.size or table + count * entry_size > len(data):
        raise KmindError(f"{what} is cut short: its section table is not all there")
    rows = [_SECTION.unpack_from(data, table + i * entry_size) for i in range(count)]
    if names_index >= count:
        raise KmindError(f"{what} is damaged: it has no section names")
    names = _slice(data, rows[names_index], what)
    return [
        Section(
            i,
            string_at(names, row[0], what),
            row[1],
            row[5],
            row[6],
            row[7],
            row[2],
            _slice(data, row, what),
        )
        for i, row in enumerate(rows)
    ]


def read_symbols(sections: list[Section], what: str) -> list[Symbol]:
    """All symbols of the file whose ``sections`` are given; none if it was stripped."""
    table = next((s for s in sections if s.type == _SHT_SYMTAB), None)
    if table is None:
        return []
    if table.link >= len(sections) or len(table.data) % _SYMBOL.size:
        raise KmindError(f"{what} is damaged: its symbol table is not whole")
    names = sections[table.link].data
    return [
        Symbol(string_at(names, name, what), section, value, size)
        for name, _, _, section, value, size in _SYMBOL.iter_unpack(table.data)
    ]


def read_relocations(sections: list[Section], symbols: list[Symbol], what: str) -> list[Relocation]:
    """All relocations of the file whose ``sections`` and ``symbols`` are given."""
    found = []
    for section in sections:
        size = {_SHT_REL: 16, _SHT_RELA: 24}.get(section.type, 0)
        if not size:
            continue
        if len(section.data) % size:
            raise KmindError(f"{what} is damaged: its relocations are not whole")
        for at in range(0, len(section.data), size):
            offset, info = _RELOCATION.unpack_from(section.data, at)
            if info >> 32 >= len(symbols):
                raise KmindError(f"{what} is damaged: a relocation names no symbol")
            found.append(Relocation(section.info, offset, symbols[info >> 32]))
    return found


def string_at(strings: memoryview, offset: int, what: str) -> str:
    """The NUL-ended ASCII string at ``offset`` of a string table."""
    # Names are short: look in a small window first, so that no table is copied for one name.
    for window in (64, len(strings)):
        raw, nul, _ = bytes(strings[offset : offset + window]).partition(b"\0")
        if nul:
            try:
                return raw.decode("ascii")
            except UnicodeDecodeError:
                break
    raise KmindError(f"{what} is damaged: no name at byte {offset} of its strings")


def _slice(data: memoryview, row: tuple[int, ...], what: str) -> memoryview:
    kind, offset, size = row[1], row[4], row[5]
    if kind == _SHT_NOBITS:
        return data[:0]
    if offset + size > len(data):
        raise KmindError(f"{what} is cut short: a section ends at byte {offset + size}")
    return data[offset : offset + size]
