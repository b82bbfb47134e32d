# SPDX-License-Identifier: Apache-2.0
"""A manifest is read whole, or refused with its file, its line and the field."""

from pathlib import Path

import pytest

from kmind.errors import ModuleError
from kmind.extension import load_manifest

GOOD = """\
name = "sample"
version = "1.2"
class = "tuner"
description = "Moves one knob to and fro."
author = "A. Author"
licence = "Apache-2.0"

[agent]
object = "sample.bpf.c"

[extension]
entry = "extension:Sample"
imports = ["numpy.linalg"]

[target]
kind = "block"

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


def test_good(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    assert manifest.name == "sample"
    assert manifest.class_ == "tuner"
    assert manifest.columns == {"requests": 0, "free_kb": 1}
    assert manifest.parameters[0].agent
    assert manifest.extension.imports == ("numpy.linalg",)
    assert manifest.hooks[0].costs == "sizes are not known"


# What is replaced, with what, and what the error must say after the file's name.
BROKEN = [
    ('name = "sample"\n', "", ": Object missing required field `name`"),
    ('"sample"', '"Sample"', ":1: name: "),
    ('class = "tuner"', 'class = "toaster"', ":3: class: Invalid enum value 'toaster'"),
    ('version = "1.2"', "version = 1.2", ":2: version: Expected `str`, got `float`"),
    ('"sample.bpf.c"', '"../../x.bpf.c"', ":9: agent.object: "),
    ('"extension:Sample"', '"extension"', ":12: extension.entry: "),
    ('kind = "block"', 'kind = "moon"', ":16: target.kind: Invalid enum value 'moon'"),
    ("minimum = 1\n", 'minimum = "one"\n', ":22: parameter[0].minimum: Expected"),
    ("default = 100", "default = 5000", ":18: parameter[0]: default is 5000, and must be"),
    ("default = 100", "default = true", ":18: parameter[0]: default is True"),
    ('choices = ["bold", "shy"]\n', "", ":28: parameter[1]: choices go with type enum"),
    ('default = "shy"', 'default = "meek"', ":28: parameter[1]: default is 'meek'"),
    ("agent = true", "agnt = true", ":26: parameter[0].agnt: Object contains unknown field"),
    ('costs = "sizes are not known"\n', "", ":38: hook[0]: an optional hook has to say"),
    ('name = "free_kb"', 'name = "requests"', ": feature: 'requests' stands there more than once"),
    ('kind = "gauge"', 'kind = "gage"', ":51: feature[1].kind: Invalid enum value 'gage'"),
    ("[target]", "[targit]", ":15: targit: Object contains unknown field `targit`"),
    ("[target]", "[target", ": not TOML: "),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_broken(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ModuleError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_too_many_features(tmp_path: Path) -> None:
    more = "".join(
        f'[[feature]]\nname = "f{n}"\nkind = "gauge"\nhelp = "one more"\n' for n in range(27)
    )
    with pytest.raises(ModuleError, match="feature: 29, and a window holds 28"):
        load_manifest(write(tmp_path, GOOD + more))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"module\.toml: No such file"):
        load_manifest(tmp_path / "module.toml")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "module.toml"
    path.write_bytes(b"name = \xff")
    with pytest.raises(ModuleError, match="not UTF-8 at byte 7"):
        load_manifest(path)
