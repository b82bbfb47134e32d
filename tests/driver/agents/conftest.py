# SPDX-License-Identifier: Apache-2.0
"""A pinned core of each test's own, and a block driver's agent in it."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driver.accounts import load_agent

from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Mode

Pinned = Callable[..., tuple[BpfAgent, Path]]


@pytest.fixture
def pinned() -> Iterator[Pinned]:
    """Load and start an agent that is pinned: it, and the file that shows its account."""
    root = Path(f"/sys/fs/bpf/kmind-test-{uuid.uuid4().hex[:12]}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)

        def load(connection: int, **words: Any) -> tuple[BpfAgent, Path]:
            core = stack.enter_context(Core.open(root))
            slot = core.register("ram@test", "ram", "driver")
            agent = load_agent(connection, core=core, slot=slot, **words)
            stack.callback(agent.close)
            agent.pin(core.folder("ram@test"))
            agent.set_mode(Mode.AUTO)
            agent.start()
            return agent, root / "instances" / "ram@test"

        yield load
