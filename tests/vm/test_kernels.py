# SPDX-License-Identifier: Apache-2.0
"""The project's own tests of the kernel, on each of the kernels that people run.

Each of SUITES runs as it is, with pytest, in a guest; what is skipped there is a feature that the
kernel lacks, and is told. The choice: what a kernel may break though another has it whole. Tests of
time and gain are left out, for an emulated processor says nothing about them. To compile an agent
of a test takes twenty seconds there, so files that share one belong together.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest
from vm.guest import KERNELS, Guest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# Name, and the files that it runs.
SUITES = {
    "shared memory": ["tests/queue/test_completion.py", "tests/agent/kernel/test_shared_memory.py"],
    "core object": ["tests/agent/core"],
    "gate": ["tests/guard/gate"],
    "kill -9": ["tests/guard/test_kill.py"],
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.guest(name)) for name in KERNELS]
)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(request.param, seconds=3000) as booted:
        booted.load("loop")
        yield booted


@pytest.mark.parametrize("suite", SUITES)
def test_the_kernels_tests_pass_there(guest: Guest, suite: str) -> None:
    done = guest.run(
        "python3", "-m", "pytest", "-q", "-m", "kernel or fault", "-p", "no:cacheprovider",
        "--junitxml=/run/tests.xml", *SUITES[suite], seconds=1200,
        environment={"KMIND_KILLS": "40"},
    )  # fmt: skip
    assert done.code == 0, f"{done.stdout[-12000:]}\n{done.stderr[-2000:]}"
    cases = list(ElementTree.fromstring(guest.read("/run/tests.xml")).iter("testcase"))
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert len(cases) > len(skipped), f"nothing ran:\n{done.stdout[-4000:]}"
    print(f"{suite} on {guest.kernel.release}: {len(cases)} tests, {len(skipped)} skipped")
