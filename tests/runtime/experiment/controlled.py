# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of controller and its neighbours."""

from runtime.measured import BASELINE, Owner, Speed

from kmind.abi import layout

KIND = layout.KIND


def ratio(by: float) -> Speed:
    return lambda value: 1000.0 * (by if value != BASELINE else 1.0)


def results(owner: Owner) -> list[tuple[str, bool]]:
    return [(each["outcome"], each["kept"]) for each in owner.of("result")]
