# SPDX-License-Identifier: Apache-2.0
"""Dependencies of a module come before it; circles, gaps and conflicts are refused."""

import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import ModuleError
from kmind.extension import Manifest, Module
from kmind.extension.discovery.depends import load_order, target_of


def module(name: str, depends: str = "", conflicts: str = "", kind: str = "system") -> Module:
    fields = {
        "name": name,
        "version": "1",
        "class": "detector",
        "description": "-",
        "author": "-",
        "licence": "-",
        "agent": {"object": "x.bpf.c"},
        "extension": {"entry": "extension:X"},
        "target": {"kind": kind},
        "depends": depends.split(),
        "conflicts": conflicts.split(),
    }
    return Module(msgspec.convert(fields, Manifest), Path(name), f"kmind_modules.{name}", "folder")


class Shelf:
    """Modules by name."""

    def __init__(self, *modules: Module) -> None:
        self.modules = {each.manifest.name: each for each in modules}

    def __call__(self, name: str) -> Module:
        if name not in self.modules:
            raise ModuleError(f"there is no module {name!r}", hint="there are none")
        return self.modules[name]

    def order(self, *names: str, loaded: str = "") -> list[str]:
        running = [self.modules[name] for name in loaded.split()]
        found = load_order(names, find=self, loaded=running)
        return [each.manifest.name for each in found]


def test_order() -> None:
    shelf = Shelf(module("top", "left right"), module("left", "base"), module("right", "base"),
                  module("base"), module("other"))  # fmt: skip
    order = shelf.order("top")
    assert order[0] == "base"
    assert order[-1] == "top"
    assert sorted(order) == ["base", "left", "right", "top"]
    assert shelf.order("base", "base") == ["base"]
    assert shelf.order() == []


def test_circle() -> None:
    shelf = Shelf(module("a", "b"), module("b", "c"), module("c", "a"), module("d", "a"))
    with pytest.raises(ModuleError) as caught:
        shelf.order("d")
    message = str(caught.value)
    assert "modules depend on each other in a circle: " in message
    circle = message.partition("circle: ")[2].partition(";")[0].split(" -> ")
    assert circle[0] == circle[-1]
    assert sorted(circle[1:]) == ["a", "b", "c"]
    for one, next_ in itertools.pairwise(circle):
        assert next_ in shelf(one).manifest.depends


def test_missing() -> None:
    with pytest.raises(ModuleError, match="a depends on b: there is no module 'b'; there are none"):
        Shelf(module("a", "b")).order("a")
    with pytest.raises(ModuleError, match=r"^there is no module 'b'"):
        Shelf().order("b")


@pytest.mark.parametrize(("one", "other"), [("", "a"), ("b", "")])
def test_conflict_counts_both_ways(one: str, other: str) -> None:
    shelf = Shelf(module("a", conflicts=one), module("b", conflicts=other), module("c", "b"))
    with pytest.raises(ModuleError, match=r"[ab] and [ab] are in conflict; load only one of them"):
        shelf.order("a", "c")
    with pytest.raises(ModuleError, match="b and a are in conflict; unload a first"):
        shelf.order("c", loaded="a")
    assert shelf.order("c") == ["b", "c"]
    assert shelf.order("a", loaded="a") == ["a"]


def test_what_runs_already_serves() -> None:
    """Even if it can be found no more."""
    base, top = module("base"), module("top", "base")
    found = load_order(["top"], find=Shelf(top), loaded=[base])
    assert found == [base, top]


def test_targets() -> None:
    whole, disk, other = module("whole"), module("disk", "whole", kind="block"), module("x", "disk")
    assert Shelf(whole, disk).order("disk") == ["whole", "disk"]
    assert target_of(whole, "vda") == "system"
    assert target_of(disk, "vda") == "vda"
    with pytest.raises(ModuleError, match="x works on the system and depends on disk, which needs"):
        Shelf(whole, disk, other).order("x")


@given(st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 12))))
def test_any_graph_is_put_in_order_or_refused(graph: dict[int, set[int]]) -> None:
    edges = {node: others - {node} for node, others in graph.items()}
    shelf = Shelf(
        *(module(f"m{n}", " ".join(f"m{x}" for x in edges.get(n, ()))) for n in range(13))
    )
    try:
        order = shelf.order(*(f"m{node}" for node in range(13)))
    except ModuleError as error:
        assert "circle" in str(error)  # noqa: PT017
        assert not _can_be_ordered(edges)
        return
    assert sorted(order) == sorted(shelf.modules)
    for name in order:
        for needed in shelf(name).manifest.depends:
            assert order.index(needed) < order.index(name)


def _can_be_ordered(edges: dict[int, set[int]]) -> bool:
    left = {node: set(others) for node, others in edges.items() if others}
    while left:
        ready = [node for node, others in left.items() if not others & left.keys()]
        if not ready:
            return False
        for node in ready:
            del left[node]
    return True
