# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of api and its neighbours."""

import json
from typing import TYPE_CHECKING, Any

from kmind.cli.client import _UnixConnection
from kmind.knobs import Target, get_knob
from kmind.runtime.evidence_store import EvidenceStore

if TYPE_CHECKING:
    from serve.conftest import Served


def ask(
    served: "Served", method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and content of one answer."""
    connection = _UnixConnection(served.path, 10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), json.loads(data) if data else {}


def _begin(store: EvidenceStore, candidate: int) -> int:
    return store.begin(
        kind="trial", instance="readahead@vda", module="readahead", backend="bpf",
        knob=get_knob("block.read_ahead_kb"), target=Target.system(), incumbent=128,
        candidate=candidate, metric="requests", unit="1/s",
    )  # fmt: skip
