# SPDX-License-Identifier: Apache-2.0
"""The driver bench on the real kernel: it ends, what it gives is whole, and it looks at answers."""

import errno
import json
import os

import numpy as np
import pytest

from kmind.bench import driver
from kmind.errors import NotSupportedError
from kmind.uring import Ring, prepare


def null_takes_commands() -> bool:
    with Ring(8) as ring:
        null = os.open("/dev/null", os.O_RDWR)
        ring.push(prepare.uring_cmd(null, 0, 1))
        ring.submit(1, 5.0)
        os.close(null)
        return int(ring.reap()["res"][0]) != -errno.EOPNOTSUPP


def test_a_quick_run_gives_every_number_with_its_spread() -> None:
    if not null_takes_commands():
        pytest.skip("/dev/null takes no commands before Linux 6.0")
    result = driver.run_driver_bench(quick=True)
    assert json.loads(json.dumps(result)) == result
    assert result["schema"] == driver.SCHEMA
    for kind in ("uring_cmd", "nop"):
        single, many = (result[f"ring_{kind}_{batch}_per_s"] for batch in (1, 32))
        assert 0 < single < many, "a batch shares one system call"
        assert np.isfinite(result[f"ring_{kind}_32_per_s_spread"])
    for batch in (1, 32):
        assert 0.2 < result[f"ring_uring_cmd_{batch}_aa"] < 5


def test_a_request_that_fails_is_not_counted() -> None:
    with Ring(8) as ring, pytest.raises(NotSupportedError, match="refuses a command"):
        driver._run(ring, lambda ids: prepare.uring_cmd(-1, 0, ids), 4, 0.01)
