# SPDX-License-Identifier: Apache-2.0
"""A module for tests: the readahead module's agent with an extension that the test writes."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kmind

__all__ = ["RECOMMENDER", "knob_file", "loop_disk", "make_module"]

MANIFEST = """\
name = "sample"
version = "1"
class = "tuner"
description = "A module for tests."
author = "The kmind authors"
licence = "Apache-2.0"

[agent]
object = "readahead.bpf.c"

[extension]
entry = "extension:Sample"
imports = []

[target]
kind = "block"

[[parameter]]
name = "value"
type = "int"
default = 512
minimum = -1000000
maximum = 1000000
help = "what to recommend"

[[parameter]]
name = "hold_s"
type = "float"
minimum = 0.1
default = 30.0
help = "for how long"

[[parameter]]
name = "every_s"
type = "float"
minimum = 0.01
default = 0.3
help = "time between recommendations"

[[knob]]
name = "block.read_ahead_kb"

[[feature]]
name = "reads"
kind = "counter"
help = "buffered reads"
"""

# Recommends one value again and again.
RECOMMENDER = """\
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        self.at = 0.0
        self.seen = []

    def on_windows(self, windows):
        if self.context.now() < self.at:
            return
        self.at = self.context.now() + self.context.params["every_s"]
        self.context.recommend(
            "block.read_ahead_kb",
            self.context.params["value"],
            reason="The test says so.",
            evidence={"windows": len(windows)},
            hold_s=self.context.params["hold_s"],
        )

    def on_verdict(self, verdict):
        self.seen.append(verdict.verdict)

    def on_change(self, change):
        self.context.log("change", kind=change.kind, value=change.value)

    def status(self):
        return {"verdicts": len(self.seen), "last": self.seen[-1] if self.seen else "none"}
"""


def make_module(folder: Path, extension: str = RECOMMENDER, manifest: str = MANIFEST) -> Path:
    """Write the module below ``folder``, and return its own."""
    module = folder / "sample"
    module.mkdir()
    built_in = Path(kmind.__file__).parent / "modules" / "readahead"
    for shape in built_in.glob("readahead*.bpf.o"):
        shutil.copy(shape, module)
    module.joinpath("module.toml").write_text(manifest)
    module.joinpath("extension.py").write_text(extension)
    return module


@contextlib.contextmanager
def loop_disk(folder: Path) -> Iterator[str]:
    """A small disk of the test's own, so that no other disk's knobs are touched; its name."""
    backing = folder / "disk"
    with backing.open("wb") as file:
        file.truncate(16 << 20)
    command = ["losetup", "--find", "--show", str(backing)]
    node = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(node).name
    finally:
        subprocess.run(["losetup", "--detach", node], check=True)


def knob_file(disk: str) -> Path:
    """Return the file of the sample's knob."""
    return Path(f"/sys/block/{disk}/queue/read_ahead_kb")
