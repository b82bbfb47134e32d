# SPDX-License-Identifier: Apache-2.0
"""A daemon of one's own: it answers, and leaves nothing of it on the machine."""

import json
from pathlib import Path

import pytest

from kmind.errors import KmindError
from kmind.testing.daemon import DaemonHost

pytestmark = pytest.mark.kernel("root", "libbpf", "btf", "bpf_timer", "tp_btf")


def test_daemon_answers_and_ends(tmp_path: Path) -> None:
    with DaemonHost.open(tmp_path) as host:
        host.start()
        assert json.loads(host.kmind("list", "--json"))["instances"] == []
        assert host.socket.exists()
        assert host.exists("/var/log/kmind")
        assert host.end() == 0
    assert not host.socket.exists()


def test_command_that_fails_says_why(tmp_path: Path) -> None:
    with DaemonHost.open(tmp_path) as host:
        host.start()
        with pytest.raises(KmindError, match="did you mean 'readahead'"):
            host.kmind("load", "readahed", "system")


def test_daemon_that_does_not_start_is_told(tmp_path: Path) -> None:
    with DaemonHost.open(tmp_path) as host, pytest.raises(KmindError, match="did not start"):
        host.start("--no-such-option")


def test_nothing_to_end(tmp_path: Path) -> None:
    with DaemonHost.open(tmp_path) as host, pytest.raises(KmindError, match="no daemon"):
        host.end()
