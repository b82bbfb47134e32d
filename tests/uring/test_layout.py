# SPDX-License-Identifier: Apache-2.0
"""The dtypes are the running kernel's structs, and the numbers its enumerators."""

import numpy as np
import pytest

from kmind.abi.btf import Btf
from kmind.errors import NotSupportedError
from kmind.uring import layout

# Ours to the kernel's names, where one word has many.
OTHER = {"op_flags": "rw_flags", "cmd": "addr3", "which": "sqe_op"}
STRUCTS = {
    "io_uring_sqe": layout.SQE,
    "io_uring_cqe": layout.CQE,
    "io_uring_params": layout.PARAMS,
    "io_sqring_offsets": layout.PARAMS["sq_off"],
    "io_cqring_offsets": layout.PARAMS["cq_off"],
    "io_uring_getevents_arg": layout.GETEVENTS_ARG,
    "__kernel_timespec": layout.TIMESPEC,
    "io_uring_restriction": layout.RESTRICTION,
    "io_uring_rsrc_update": layout.RSRC_UPDATE,
}


@pytest.fixture(scope="module")
def kernel() -> Btf:
    try:
        return Btf.kernel()
    except NotSupportedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_lie_where_the_kernels_do(kernel: Btf, name: str) -> None:
    ours = STRUCTS[name]
    theirs = {member.name: member for member in kernel.struct(name).members}
    assert ours.itemsize == kernel.struct(name).size
    for field in ours.names or ():
        dtype, offset = (ours.fields or {})[field][:2]
        member = theirs[OTHER.get(field, field)]
        assert member.offset == offset, field
        if field != "cmd":
            assert member.size == dtype.itemsize, field


def test_big_entries_begin_as_small_ones() -> None:
    for small, big in ((layout.SQE, layout.SQE128), (layout.CQE, layout.CQE32)):
        assert big.itemsize == 2 * small.itemsize
        for name in small.names or ():
            assert (small.fields or {})[name][1] == (big.fields or {})[name][1]
    assert layout.SQE["cmd"].shape == (16,)
    assert layout.SQE128["cmd"].shape == (80,)
    assert np.zeros(1, layout.SQE128)["cmd"].nbytes == 80


def test_numbers_are_the_kernels(kernel: Btf) -> None:
    known = kernel.constants
    named = {
        "IORING_OP_": layout.Op,
        "IORING_REGISTER_": layout.Register,
        "IORING_RESTRICTION_": layout.Restrict,
    }
    for prefix, enum in named.items():
        for member in enum:
            assert known[prefix + member.name] == member, member
    for flag in layout.SqeFlag:
        assert 1 << known[f"IOSQE_{flag.name}_BIT"] == flag
