# SPDX-License-Identifier: Apache-2.0
"""Fate of a recommendation in each mode, on the real kernel."""

from typing import TYPE_CHECKING

import pytest
from sample_module import RECOMMENDER

from kmind.runtime.holds import holds

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

ONCE = RECOMMENDER.replace("if self.context.now() < self.at:", "if self.at:")


def test_observe_changes_nothing(bench: "Bench") -> None:
    bench.start("observe")
    bench.run_until(lambda: len(bench.of("verdict")) >= 2)
    assert {event["verdict"] for event in bench.of("verdict")} == {"shadowed"}
    assert bench.knob.read_text() == bench.baseline
    assert bench.stop() == {"changes": [], "restored": True, "failed": ""}


def test_advise_says_what_to_type(bench: "Bench") -> None:
    bench.start("advise")
    bench.run_until(lambda: bench.of("advice"))
    advice = bench.of("advice")[0]
    assert advice["command"] == f"echo 512 > {bench.knob}"
    assert advice["reason"] == "The test says so."
    assert advice["evidence"]["windows"] >= 1
    assert bench.knob.read_text() == bench.baseline


def test_auto_applies_renews_and_restores(bench: "Bench") -> None:
    bench.start("auto", "hold_s=1", "every_s=0.2")
    bench.run_until(lambda: bench.of("applied"))
    assert bench.knob.read_text() == "512\n"
    bench.run_for(2)
    assert not bench.of("undone")  # renewed again and again
    assert "renewed" in {event["verdict"] for event in bench.of("verdict")}
    assert [change.new for change in bench.journal.open_changes()] == [512]
    summary = bench.stop()
    assert summary["restored"]
    assert summary["changes"][0]["values"] == [512]
    assert bench.journal.open_changes() == []
    kinds = [event["message"] for event in bench.of("log") if event["source"] == "extension"]
    assert kinds[0] == "change kind=applied value=512"


def test_without_renewal_the_hold_ends(bench: "Bench") -> None:
    bench.start("auto", "hold_s=0.5", extension=ONCE)
    bench.run_until(lambda: bench.of("undone"))
    assert bench.of("undone")[0]["why"] == "its hold ended"
    assert bench.knob.read_text() == bench.baseline


def test_canary_undoes_in_spite_of_renewals(
    bench: "Bench", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "CANARY_HOLD_S", 1.5)
    bench.start("canary", "hold_s=60", "every_s=0.2")
    bench.run_until(lambda: bench.of("undone"))
    assert bench.of("applied")[0]["hold_s"] == pytest.approx(1.5, abs=0.1)
    assert "renewed" in {event["verdict"] for event in bench.of("verdict")}


@pytest.mark.parametrize(
    ("value", "verdict"),
    [("1000000", "range"), ("-4", "range"), ("510", "grid")],
)
def test_refused_by_the_agent(bench: "Bench", value: str, verdict: str) -> None:
    bench.start("auto", f"value={value}")
    bench.run_until(lambda: bench.of("verdict"))
    assert bench.of("verdict")[0]["verdict"] == verdict
    assert bench.knob.read_text() == bench.baseline


def test_policy_bounds_the_grant(bench: "Bench") -> None:
    bench.start("auto", policy='[knob."block.read_ahead_kb"]\nmax = 256\n')
    bench.run_until(lambda: bench.of("verdict"))
    assert bench.of("verdict")[0]["verdict"] == "range"


def test_forbidden_knob_is_not_granted(bench: "Bench") -> None:
    bench.start("auto", policy='[knob."block.read_ahead_kb"]\nforbidden = true\n')
    bench.run_until(lambda: bench.instance and bench.instance.failed)
    messages = [event["message"] for event in bench.of("log")]
    assert "knob block.read_ahead_kb is not granted: the policy forbids it" in messages
    assert any("is not granted; granted: none" in message for message in messages)


def test_external_change_yields(bench: "Bench") -> None:
    bench.start("auto", "every_s=0.2")
    bench.run_until(lambda: bench.of("applied"))
    bench.knob.write_text("64")
    try:
        bench.run_until(lambda: bench.of("yielded"))
        assert "set to 64 by somebody else" in bench.of("yielded")[0]["message"]
        # What the agent had answered just before is still told.
        bench.run_until(lambda: bench.of("verdict")[-1]["verdict"] == "range")
        bench.events.clear()
        bench.run_until(lambda: len(bench.of("verdict")) >= 3)
        assert {event["verdict"] for event in bench.of("verdict")} == {"range"}
        summary = bench.stop()
        assert bench.knob.read_text() == "64\n"
        assert summary["restored"]
        assert summary["changes"][0]["yielded"]
    finally:
        bench.knob.write_text(bench.baseline)


def test_status_and_features_are_shown(bench: "Bench") -> None:
    bench.start("advise")
    assert bench.instance
    view = bench.instance.view
    bench.run_until(lambda: view.status.get("last") == "advised")
    assert list(view.features) == ["reads"]
    assert view.knobs == {"block.read_ahead_kb": int(bench.baseline)}
    assert bench.instance.account()["verdict_advised"] >= 1
