# SPDX-License-Identifier: Apache-2.0
"""The extension's process as an instance has it, on the real kernel: started anew, it remembers."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")

REMEMBERER = """\
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        runs = (self.context.memory or {"runs": 0})["runs"] + 1
        self.context.log("runs", n=runs)
        self.context.remember({"runs": runs})
"""


def test_what_an_extension_remembers_is_there_at_its_next_start(bench: "Bench") -> None:
    bench.start("observe", extension=REMEMBERER)
    assert bench.instance
    bench.run_until(lambda: (bench.folder / f"memory/sample@{bench.disk}.json").exists())
    bench.instance.relaunch(bench.instance.module, bench.instance.params)
    bench.run_until(lambda: bench.instance and bench.instance.ready())
    bench.instance.resume()
    bench.run_until(lambda: len([e for e in bench.of("log") if e["source"] == "extension"]) == 2)
    lines = [e["message"] for e in bench.of("log") if e["source"] == "extension"]
    assert lines == ["runs n=1", "runs n=2"]
