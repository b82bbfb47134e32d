# SPDX-License-Identifier: Apache-2.0
"""Extensions that fail, flood, or cannot start."""

import time
from typing import TYPE_CHECKING

import pytest
from sample_module import RECOMMENDER

from kmind.errors import KmindError

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


def test_exception_in_the_module(bench: "Bench") -> None:
    bench.start(
        "auto",
        extension=RECOMMENDER.replace(
            "        self.context.log(", '        raise RuntimeError("on purpose")\n        print('
        ),
    )
    bench.run_until(lambda: bench.instance and bench.instance.failed)
    assert bench.instance
    assert "its code raised an exception" in bench.instance.failed
    log = [event["message"] for event in bench.of("log") if event["source"] == "extension"]
    assert log[-1] == "RuntimeError: on purpose"
    assert any(line.lstrip().startswith("raise RuntimeError") for line in log)  # from memory
    assert bench.knob.read_text() == bench.baseline
    bench.instance.step(0.01)  # does nothing any more


def test_module_that_cannot_start(bench: "Bench") -> None:
    with pytest.raises(KmindError, match=r"ended: its code raised an exception.*nothing was"):
        bench.start("auto", extension="import no_such_package\n")
    log = [event["message"] for event in bench.of("log")]
    assert any("no_such_package cannot be imported any more" in line for line in log)


def test_entry_that_is_no_extension(bench: "Bench") -> None:
    with pytest.raises(KmindError, match="its code raised"):
        bench.start("auto", extension="Sample = 3\n")
    log = " ".join(event["message"] for event in bench.of("log"))
    assert "has no class Sample derived from kmind.extension.Extension" in log


def test_hostile_text_is_made_harmless(bench: "Bench") -> None:
    hostile = RECOMMENDER.replace(
        "    def on_verdict",
        '    def on_verdict(self, verdict):\n        print("\\x1b[2J\\x07" + "x" * 5000)\n\n'
        "    def unused",
    )
    bench.start("advise", extension=hostile)
    bench.run_until(lambda: bench.of("log"))
    for event in bench.of("log"):
        assert event["message"].isprintable()
        assert len(event["message"]) <= 500


def test_flood_of_output_is_bounded(bench: "Bench") -> None:
    flood = RECOMMENDER.replace(
        "    def on_windows(self, windows):",
        '    def on_windows(self, windows):\n        print("flood\\n" * 2000)\n'
        "        return\n\n    def unused(self, windows):",
    )
    bench.start("advise", extension=flood)
    bench.run_until(lambda: any("lines dropped" in e["message"] for e in bench.of("log")))
    began = time.monotonic()
    count = len(bench.of("log"))
    bench.run_for(1.0)
    allowed = 20 * (time.monotonic() - began) * 2 + 5  # each line, and how many were dropped
    assert len(bench.of("log")) - count <= allowed
