# SPDX-License-Identifier: Apache-2.0
"""Error numbers become the right exceptions, with words and a hint."""

import errno

import pytest

from kmind.bpf._errors import ENOTSUPP, check, error_from
from kmind.errors import BpfError, KmindError, NotSupportedError, PrivilegeError


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EPERM, PrivilegeError, "Operation not permitted"),
        (errno.EACCES, PrivilegeError, "Permission denied"),
        (errno.ENOSYS, NotSupportedError, "Function not implemented"),
        (errno.EOPNOTSUPP, NotSupportedError, "Operation not supported"),
        (ENOTSUPP, NotSupportedError, "not supported by this kernel"),
        (errno.EINVAL, BpfError, "Invalid argument"),
    ],
)
def test_each_number_has_its_exception(number: int, kind: type[KmindError], words: str) -> None:
    for sign in (1, -1):
        error = error_from(sign * number, "cannot do it")
        assert type(error) is kind
        assert str(error).startswith(f"cannot do it: {words}")
        assert str(error_from(number, "cannot do it", "try that")).endswith("; try that")
        assert error_from(number, "cannot do it", "").hint == ""


def test_check_passes_results_on() -> None:
    assert check(7, "cannot do it") == 7
    with pytest.raises(BpfError, match="cannot do it: No such file"):
        check(-errno.ENOENT, "cannot do it")
