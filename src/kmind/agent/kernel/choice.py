# SPDX-License-Identifier: Apache-2.0
"""Choose the programs of an agent that this kernel can run.

A hook may have alternatives: other programs that do its work where the kernel lacks what it
stands on, such as one at the entry of the function that has no tracepoint yet. The first of them
that the kernel can run is loaded, and the others are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kmind.abi.btf import Btf, Kind
from kmind.agent.kernel.spec import Spec
from kmind.bpf import BpfObject
from kmind.bpf.probe import probe
from kmind.errors import NotSupportedError

__all__ = ["FUNCTION_SECTIONS", "Choice", "choose_among_pins", "choose_programs"]

FUNCTION_SECTIONS = ("fentry/", "fexit/")
"""Sections of programs that the kernel calls by a trampoline, at a function's entry or exit."""


@dataclass(frozen=True)
class Choice:
    """``chosen`` is hook to program; ``missing`` says of each hook without one why.

    ``left_out`` are the programs that are not loaded.
    """

    chosen: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()

    def hook_of(self, program: str) -> str:
        """Name of the hook that the program does the work of."""
        return next((hook for hook, name in self.chosen.items() if name == program), program)

    @property
    def replaced(self) -> dict[str, str]:
        """The hooks whose work an alternative does, and its name."""
        return {hook: name for hook, name in self.chosen.items() if name != hook}


def choose_programs(loading: BpfObject, spec: Spec, refused: Mapping[str, str]) -> Choice:
    """Choose for each hook of ``spec`` the first program that this kernel can run.

    ``refused`` says of programs that the kernel has refused to load why. Programs that are not
    chosen are set not to be loaded. NotSupportedError if a needed hook has none.
    """
    chosen, missing = {}, {}
    left_out: set[str] = set()
    for hook, tracepoint in spec.hooks.items():
        causes = []
        for name in (hook, *spec.alternatives.get(hook, ())):
            section = f"tp_btf/{tracepoint}" if name == hook else loading.programs[name].section
            cause = refused.get(name) or _lacks(section)
            if hook not in chosen and not cause:
                chosen[hook] = name
                continue
            left_out.add(name)
            causes.append(cause)
        if hook not in chosen:
            missing[hook] = _joined(causes)
            if hook not in spec.optional:
                raise NotSupportedError(
                    f"{missing[hook]}, which hook {hook} needs", hint="see kmind doctor"
                )
    # A program at a function that is no hook's alternative has no work to do.
    left_out |= {
        name
        for name, program in loading.programs.items()
        if program.section.startswith(FUNCTION_SECTIONS) and name not in chosen.values()
    }
    for name in left_out & loading.programs.keys():
        loading.programs[name].set_autoload(False)
    return Choice(chosen, missing, frozenset(left_out))


def choose_among_pins(
    programs: Mapping[str, object],
    hooks: Mapping[str, str],
    alternatives: Mapping[str, Sequence[str]],
) -> Choice:
    """The choice of the one who loaded and pinned these programs: the others have no pins."""
    chosen, missing = {}, {}
    for hook, tracepoint in hooks.items():
        names = [name for name in (hook, *alternatives.get(hook, ())) if name in programs]
        if names:
            chosen[hook] = names[0]
        else:
            missing[hook] = f"this kernel has no tracepoint {tracepoint}"
    return Choice(chosen, missing)


def _lacks(section: str) -> str:
    # The reason why a program of that section cannot be loaded here, or "".
    kind, _, name = section.partition("/")
    kernel = Btf.kernel()
    if f"{kind}/" not in FUNCTION_SECTIONS:
        absent = kernel.tracepoint_args(name) is None
        return f"this kernel has no tracepoint {name}" if absent else ""
    if kernel.find(name, Kind.FUNC) is None:
        return f"this kernel has no function {name}"
    return _refuses_functions()


@functools.cache
def _refuses_functions() -> str:
    found = probe("fentry")
    return "" if found.state == "ok" else f"fentry is {found.state} here: {found.cause}"


def _joined(causes: Sequence[str]) -> str:
    return ", and ".join(dict.fromkeys(causes))
