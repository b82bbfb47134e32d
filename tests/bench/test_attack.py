# SPDX-License-Identifier: Apache-2.0
"""The bench of attacks on the owner's time: what it compares, and that what attacks is real."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from kmind.bench import _attack
from kmind.bench._attack import ATTACKS, compare, run_attacks
from kmind.bench._attack_client import server
from kmind.bench.admission import ATTACK_SCHEMA
from kmind.runtime.objective.prometheus import parse_prometheus
from kmind.runtime.objective.sources import GapError
from kmind.runtime.supervisor.turn_times import TurnTimes


def turns(*lengths: float, asked: float = 0.0) -> dict[str, object]:
    clock = [0.0]
    kept = TurnTimes(lambda: clock[0], lambda: clock[0] / 4)
    for length in (*lengths, *([asked] if asked else [])):
        kept.begin()
        clock[0] += length
        if length == asked:
            kept.mark()
        kept.end()
    return dict(kept.describe())


def test_turns_before_the_attack_do_not_count() -> None:
    before = turns(0.5, 0.001)
    after = turns(0.5, 0.001, *[0.002] * 99, 0.04, asked=0.3)
    # As it comes over the API.
    row = compare(json.loads(json.dumps(before)), json.loads(json.dumps(after)), 10.0)
    assert row["turns"] == 100
    assert 2 <= row["p99_ms"] <= 2.2
    assert 40 <= row["worst_ms"] <= 44
    assert 10 <= row["cpu_worst_ms"] <= 11
    assert row["busy_percent"] == pytest.approx(2.38)
    assert (row["asked_turns"], 300 <= row["asked_worst_ms"] <= 330) == (1, True)


def test_server_of_the_attack_stalls_and_that_beside_it_answers() -> None:
    with server(answers=True) as port:
        asked = parse_prometheus(f"http://127.0.0.1:{port}?query=x", timeout_s=5.0)
        assert asked.ask(lambda: False) == 1.0
    with server(answers=False) as port:
        with socket.create_connection(("127.0.0.1", port), 1):
            pass
        asked = parse_prometheus(f"http://127.0.0.1:{port}?query=x", timeout_s=0.2)
        with pytest.raises(GapError, match="no answer within"):
            asked.ask(lambda: False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be nobody")
def test_helpers_of_the_attack_do_what_they_say(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file, closed = tmp_path / "file", tmp_path / "closed"
    for path, mode in ((file, 0o644), (closed, 0o600)):
        path.write_bytes(bytes(256))
        path.chmod(mode)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    with _attack._helper(_attack._OPENER, str(file), "200") as pid:
        links = subprocess.run(
            ["find", f"/proc/{pid}/fd", "-lname", str(file)], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert links.stdout.count("\n") == 200
    with _attack._helper(_attack._LOCKER, str(file), str(closed)):
        held = Path("/proc/locks").read_text()
        assert f":{file.stat().st_ino} " in held
        assert f":{closed.stat().st_ino} " not in held


def test_each_attack_stands_beside_the_same_without_one() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert names[0] == "none"
    assert "none, again" in names
    assert {a.extension for a in ATTACKS} == {"none", "print", "refuse"}


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")
def test_clients_in_a_loop_on_a_real_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    some = tuple(a for a in ATTACKS if a.name in ("none", "64 clients in a loop"))
    monkeypatch.setattr(_attack, "ATTACKS", some)
    monkeypatch.setattr(_attack, "_QUICK_S", 1.0)
    said: list[str] = []
    result = run_attacks(quick=True, say=said.append)
    quiet, clients = result["attacks"]
    assert (len(said), result["failed"]) == (2, {})
    assert clients["turns"] > quiet["turns"]
    assert result["quiet_worst_ms"] > 0
    assert 0 < result["worst_ms"] < 2000  # 14.8 s, where it answered until nobody asked
    assert ATTACK_SCHEMA == "kmind.bench.attack/1"
