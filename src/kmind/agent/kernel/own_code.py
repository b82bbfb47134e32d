# SPDX-License-Identifier: Apache-2.0
"""A module's own code keeps its hands off the maps that all agents share.

They hold the leases, what the gate lets through, and the accounts: of other instances, too. A
module's object is loaded with these maps, writable, for the agent library is compiled into it.
So the object is asked, before it is loaded, from where it refers to them. This tells a
module's code from the library's by the names of functions: it holds for what a compiler made of
a module's source, not for an object that somebody made by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from kmind.abi.elf import Relocation, Section, Symbol, read_relocations, read_sections, read_symbols
from kmind.errors import KmindError, LoadError
from kmind.util.foreign import foreign

__all__ = ["LIBRARY", "refuse_shared_maps"]

_SHARED = frozenset({"km_instances", "km_leases", "km_approved", "km_actions", "km_owner"})
LIBRARY = frozenset({"km_admit_one", "km_enter_mode", "km_publish", "km_tick"})
"""The functions of the agent library, each in ``.text``, that use a shared map."""

_CALL = 0x85
_SYS_BPF = 166  # a helper of SEC("syscall"): it opens any map, by its number
_NO_CODE = (".BTF", ".debug")


def refuse_shared_maps(path: Path) -> None:
    """Raise LoadError if the object's own code uses a shared map, or could open one.

    Raises BpfError or KmindError where it cannot be read.
    """
    with foreign(lambda why: KmindError(f"{path} cannot be read: {why}")):
        data = memoryview(path.read_bytes())
        sections = read_sections(data, str(path))
        symbols = read_symbols(sections, str(path))
        for used in read_relocations(sections, symbols, str(path)):
            map_ = _shared(used.symbol, symbols)
            if map_ and (who := _stranger(used, sections, symbols)):
                raise LoadError(
                    f"{path}: {who} uses {map_}, a map that all agents share",
                    hint="leave it to kmind/agent.h; a map of the module's own has another name",
                )
        for section in sections:
            if section.has_code and _SYS_BPF in _helpers(section):
                raise LoadError(
                    f"{path}: {section.name} calls bpf_sys_bpf, which opens maps of others",
                    hint="a module has no use for it: leave it out",
                )


def _shared(symbol: Symbol, symbols: list[Symbol]) -> str:
    # By its place, whatever name it goes by.
    for each in symbols:
        if each.name in _SHARED and (each.section, each.offset) == (symbol.section, symbol.offset):
            return each.name
    return symbol.name if symbol.name in _SHARED else ""


def _stranger(used: Relocation, sections: list[Section], symbols: list[Symbol]) -> str:
    """The function or section that a map is used from; "" if that may be."""
    if used.section >= len(sections):
        return f"section {used.section}"
    section = sections[used.section]
    if section.name.startswith(_NO_CODE):
        return ""
    names = [
        symbol.name
        for symbol in symbols
        if symbol.section == section.number
        and symbol.offset <= used.offset < symbol.offset + symbol.size
    ]
    if section.name == ".text" and names and LIBRARY.issuperset(names):
        return ""
    return names[0] if names else f"section {section.name}"


def _helpers(section: Section) -> Iterator[int]:
    whole = section.data[: len(section.data) // 8 * 8]
    for code, registers, _, value in struct.iter_unpack("<BBhi", whole):
        if code == _CALL and registers >> 4 == 0:
            yield value
