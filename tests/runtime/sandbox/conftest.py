# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

import os
from collections.abc import Iterator

import pytest
from runtime.sandbox.limited import _numbers

from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup, list_cgroups


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else uses; its cgroup is removed."""
    made = f"test-{os.getpid()}-{next(_numbers)}@here"
    yield made
    if made in list_cgroups():
        ExtensionCgroup.adopt(made).close()
