# SPDX-License-Identifier: Apache-2.0
"""Short names of instances: they fit, and no two instances share one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.util.names import FILE_NAME_BYTES, file_name

# Few characters, so that names which look alike come about; long ones too.
PATHS = st.text("ab.:!~0é", min_size=1, max_size=60)


@given(PATHS)
def test_name_fits_and_has_no_dot(path: str) -> None:
    short = file_name(f"autotune@cgroup:{path}")
    assert len(short.encode()) <= FILE_NAME_BYTES
    assert "." not in short
    assert "/" not in short
    assert short.startswith("autotune@")


@given(PATHS, PATHS)
def test_different_instances_have_different_names(one: str, other: str) -> None:
    same = file_name(f"x@cgroup:{one}") == file_name(f"x@cgroup:{other}")
    assert same == (one == other)


@pytest.mark.parametrize(
    "these", [("a.b", "a:b", "a.b:"), ("a" * 80, "a" * 81), ("x.y", "x:y"), ("é" * 40, "é" * 41)]
)
def test_names_that_look_alike_stay_apart(these: tuple[str, ...]) -> None:
    names = [f"autotune@cgroup:{each}" for each in these]
    shorts = {file_name(name) for name in names}
    assert len(shorts) == len(names)
    # Nobody takes the place of another by the other's short name, which may be a cgroup's name.
    assert not shorts & {file_name(short) for short in shorts if "~" in short}


@pytest.mark.parametrize(
    "name", ["readahead@vda", "dirty@system", "static@cgroup:system!cron", "slowio@cciss!c0d0"]
)
def test_name_that_fits_is_kept(name: str) -> None:
    assert file_name(name) == name


def test_name_of_a_unit_can_be_read() -> None:
    assert file_name("a@cgroup:system.slice!cron.service") == "a@cgroup:system:slice!cron:service"
