# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of layout and its neighbours."""

from agents import ROOT

from kmind.abi import layout

ABI = ROOT / "src" / "kmind" / "abi"
INCLUDE = ROOT / "src" / "kmind" / "include"
ENUMS = [name for name in layout.__all__ if isinstance(getattr(layout, name), dict)]
