# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of manifest and its neighbours."""

from pathlib import Path

GOOD = """\
name = "sample"
version = "1.2"
class = "tuner"
description = "Moves one knob to and fro."
author = "A. Author"
licence = "Apache-2.0"
aliases = ["block:nvme*n*,DEVTYPE=disk"]
depends = ["base"]
conflicts = ["rival"]

[agent]
object = "sample.bpf.c"

[extension]
entry = "extension:Sample"
imports = ["numpy.linalg"]

[target]
kind = "block"

[limits]
cpu_percent = 20
memory_mib = 96

[sandbox]
files = ["/etc/hostname", "/usr/share/zoneinfo"]

[[parameter]]
name = "window_ms"
type = "int"
unit = "ms"
minimum = 1
maximum = 1000
default = 100
help = "length of a window"
agent = true

[[parameter]]
name = "style"
type = "enum"
choices = ["bold", "shy"]
default = "shy"
help = "how far to go"

[[knob]]
name = "block.read_ahead_kb"
priority = 7

[[hook]]
program = "on_read"
tracepoint = "block_rq_issue"
optional = true
costs = "sizes are not known"

[[feature]]
name = "requests"
kind = "counter"
help = "requests issued"

[[feature]]
name = "free_kb"
kind = "gauge"
unit = "kB"
help = "memory left"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "module.toml"
    path.write_text(text)
    return path
