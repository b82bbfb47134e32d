# SPDX-License-Identifier: Apache-2.0
"""Read a compiled agent's properties from its file: no root, no libbpf."""

from __future__ import annotations

from kmind.abi.btf import Btf
from kmind.abi.elf import Section, Symbol, read_sections, read_symbols
from kmind.errors import KmindError
from kmind.extension import Module

__all__ = ["AgentObject"]

_PARAMETER = "param_"
_TABLE = "km_table_"
_LIBRARY = frozenset({"km_show"})  # of all agents, beside those in SEC("syscall")


class AgentObject:
    """A module's ``.bpf.o``.

    ``programs`` is name to section, the agent library's own left out; ``features``
    the names of the columns in order, None if the object does not say; ``gauges`` a
    bit mask of them; ``parameters`` the names of its ``param_`` constants; ``tables`` what
    a row of each holds. Raises KmindError for a file that is absent or no BPF object.
    """

    def __init__(self, module: Module) -> None:
        path, manifest = module.object_path, module.manifest
        ready = manifest.driver.kind if manifest.driver and not manifest.agent else ""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise KmindError(
                f"cannot read {path}: {error.strerror}", hint="compile the agent first"
            ) from None
        btf = Btf.from_elf_bytes(data, str(path))
        sections = read_sections(memoryview(data), str(path))
        symbols = read_symbols(sections, str(path))
        self.programs = {
            symbol.name: _home(symbol, sections)
            for symbol in symbols
            if "/" in _home(symbol, sections) and symbol.size and symbol.name not in _LIBRARY
        }
        constants = btf.sections.get(".rodata", {})
        self.parameters = {
            name.removeprefix(_PARAMETER)
            for name in constants
            if name.startswith(_PARAMETER) and not ready  # a ready agent's are its device's
        }
        self.tables = {
            name.removeprefix(_TABLE): btf.dtype(f"{name.removeprefix(_TABLE)}_row")
            for name in btf.sections.get(".maps", {})
            if name.startswith(_TABLE)
        }
        columns = btf.enums.get(f"{ready or manifest.name}_feature")
        self.features = columns and [
            name.partition("_")[2].lower() for name in sorted(columns, key=columns.__getitem__)
        ]
        gauges = next((s for s in symbols if s.name == "km_gauges"), None)
        self.gauges = _word(gauges, sections) if gauges else 0


def _home(symbol: Symbol, sections: list[Section]) -> str:
    return sections[symbol.section].name if symbol.section < len(sections) else ""


def _word(symbol: Symbol, sections: list[Section]) -> int:
    data = sections[symbol.section].data[symbol.offset : symbol.offset + 8]
    return int.from_bytes(data, "little")
