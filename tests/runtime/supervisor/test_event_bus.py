# SPDX-License-Identifier: Apache-2.0
"""Subscribers to events."""

import pytest
from runtime.supervised import QUICK, Rig

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


def test_a_subscriber_that_fails_is_told_nothing_more(rig: Rig, disk: str) -> None:
    supervisor = rig.start()
    told = 0

    def explode(event: object) -> None:
        nonlocal told
        told += 1
        raise ValueError("on purpose")

    supervisor.subscribe(explode)
    rig.load(rig.module(), disk, *QUICK)
    rig.run_until(lambda: rig.of("applied"))
    assert told == 1
