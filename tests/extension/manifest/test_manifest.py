# SPDX-License-Identifier: Apache-2.0
"""A manifest is read whole, or refused with its file, its line and the field."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from extension.manifests import GOOD, write

from kmind.classes import SERVICES, class_names, find_class
from kmind.errors import ModuleError
from kmind.extension import load_manifest
from kmind.extension.manifest.manifest import KnobUse, Limits, Manifest, SandboxPart


def test_good(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    assert manifest.name == "sample"
    assert manifest.class_ == "tuner"
    assert manifest.columns == {"requests": 0, "free_kb": 1}
    assert manifest.parameters[0].agent
    assert manifest.extension.imports == ("numpy.linalg",)
    assert manifest.hooks[0].costs == "sizes are not known"
    assert manifest.aliases == ("block:nvme*n*,DEVTYPE=disk",)
    assert (manifest.depends, manifest.conflicts) == (("base",), ("rival",))
    assert manifest.limits == Limits(cpu_percent=20, memory_mib=96, pids=16)
    assert manifest.sandbox.files == ("/etc/hostname", "/usr/share/zoneinfo")
    assert not manifest.sandbox.network
    assert manifest.knobs[0].priority == 7


def test_what_is_left_out_is_modest(tmp_path: Path) -> None:
    start = GOOD.index("[limits]")
    text = GOOD[:start] + GOOD[GOOD.index("[[parameter]]") :]
    for line in ("aliases", "depends", "conflicts", "priority"):
        text = "".join(row for row in text.splitlines(True) if not row.startswith(line))
    manifest = load_manifest(write(tmp_path, text))
    assert (manifest.aliases, manifest.depends, manifest.conflicts) == ((), (), ())
    assert manifest.limits == Limits(cpu_percent=50, memory_mib=256, pids=16)
    assert (manifest.sandbox.files, manifest.sandbox.network) == ((), False)
    assert manifest.knobs[0].priority == 100


# What is replaced, with what, and what the error must say after the file's name. LINE is the
# line that the replacement begins on, HEAD the header of the table above it.
BROKEN = [
    ('name = "sample"\n', "", ":1: Object missing required field `name`"),
    ('"sample"', '"Sample"', ":LINE: name: "),
    ('class = "tuner"', 'class = "toaster"', ":LINE: class: no class is called 'toaster'"),
    ('version = "1.2"', "version = 1.2", ":LINE: version: Expected `str`, got `float`"),
    ('"sample.bpf.c"', '"../../x.bpf.c"', ":LINE: agent.object: "),
    ('"extension:Sample"', '"extension"', ":LINE: extension.entry: "),
    ('kind = "block"', 'kind = "moon"', ":LINE: target.kind: Invalid enum value 'moon'"),
    ("minimum = 1\n", 'minimum = "one"\n', ":LINE: parameter[0].minimum: Expected"),
    ("default = 100", "default = 5000", ":HEAD: parameter[0]: default is 5000, and must be"),
    ("default = 100", "default = true", ":HEAD: parameter[0]: default is True"),
    ('name = "style"', 'name = "mode"', ":HEAD: parameter[1]: a parameter cannot be called mode"),
    ('choices = ["bold", "shy"]\n', "", ":HEAD: parameter[1]: choices go with type enum"),
    ('default = "shy"', 'default = "meek"', ":HEAD: parameter[1]: default is 'meek'"),
    ("agent = true", "agnt = true", ":LINE: parameter[0].agnt: Object contains unknown field"),
    ('costs = "sizes are not known"\n', "", ":HEAD: hook[0]: an optional hook has to say"),
    (
        "optional = true",
        'alternative = [{program = "other", function = "f", tracepoint = "t"}]',
        ":LINE: hook[0].alternative[0]: an alternative names either a function or a tracepoint",
    ),
    (
        "optional = true",
        'alternative = [{program = "other"}]',
        ":LINE: hook[0].alternative[0]: an alternative names either a function or a tracepoint",
    ),
    (
        "optional = true",
        'alternative = [{program = "on_read", function = "f"}]',
        ":LINE: hook[0].alternative: 'on_read' occurs more than once",
    ),
    (
        "optional = true",
        'alternative = [{program = "other", function = "f"}, {program = "other", function = "g"}]',
        ":LINE: hook[0].alternative: 'other' occurs more than once",
    ),
    (
        "optional = true",
        'while = {feature = "free_kb", above = 1}',
        ":LINE: hook[0].while: on_read",
    ),
    ("optional = true", 'while = {feature = "requests"}', ":LINE: hook[0].while: Object missing"),
    (
        'name = "free_kb"',
        'name = "requests"',
        ":LINE: feature[1].name: 'requests' occurs more",
    ),
    ('kind = "gauge"', 'kind = "gage"', ":LINE: feature[1].kind: Invalid enum value 'gage'"),
    ("[target]", "[targit]", ":LINE: targit: Object contains unknown field `targit`"),
    ("[target]", "[target", ":LINE: not TOML: "),
    ('["block:nvme*n*,DEVTYPE=disk"]', '["nvme*"]', ":LINE: aliases[0]: 'nvme*' is no SUBSYSTEM"),
    ('["block:nvme*n*,DEVTYPE=disk"]', '["net:*"]', ":LINE: aliases[0]: 'net:*' names no block"),
    ('["block:nvme*n*,DEVTYPE=disk"]', '"net:*"', ":LINE: aliases: Expected `array`, got `str`"),
    ('depends = ["base"]', 'depends = ["sample"]', ":LINE: depends[0]: 'sample' is this module"),
    ('depends = ["base"]', 'depends = ["b", "b"]', ":LINE: depends[1]: 'b' occurs more than"),
    ('depends = ["base"]', 'depends = ["No"]', ":LINE: depends[0]: Expected `str` matching"),
    ('["rival"]', '["base"]', ":LINE: conflicts[0]: 'base' is in depends too"),
    ("cpu_percent = 20", "cpu_percent = 0", ":LINE: limits.cpu_percent: Expected `int` >= 1"),
    ("memory_mib = 96", "memory_mib = 4097", ":LINE: limits.memory_mib: Expected `int` <= 4096"),
    ("memory_mib = 96", "pids = 257", ":LINE: limits.pids: Expected `int` <= 256"),
    ("memory_mib = 96", "memory = 96", ":LINE: limits.memory: Object contains unknown field"),
    ('["/etc/hostname", ', '["etc/hostname", ', ":LINE: sandbox.files: 'etc/hostname' is no abs"),
    ('["/etc/hostname", ', '["/etc/../etc/x", ', ":LINE: sandbox.files: '/etc/../etc/x' is no abs"),
    ('["/etc/hostname", ', '["/", ', ":LINE: sandbox.files: '/' is every file"),
    ("priority = 7", "priority = 256", ":LINE: knob[0].priority: Expected `int` <= 255"),
    ('"block.read_ahead_kb"', '"block.read_ahed"', ":LINE: knob[0].name: unknown knob"),
    (
        '"block.read_ahead_kb"',
        '"cgroup.io_weight"',
        ":LINE: knob[0].name: cgroup.io_weight is not a knob of",
    ),
]


def place(text: str, at: int) -> tuple[int, int]:
    """The line of a place in a text, and that of the header of its table."""
    before = text[:at].splitlines(True)
    line = text.count("\n", 0, at) + 1
    heads = [number for number, row in enumerate(before, 1) if row.startswith("[")]
    return line, heads[-1] if heads else 1


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_broken(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    line, head = place(GOOD, GOOD.index(old))
    message = message.replace("LINE", str(line)).replace("HEAD", str(head))
    with pytest.raises(ModuleError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_inline_tables_have_lines_too(tmp_path: Path) -> None:
    text = GOOD.replace('[agent]\nobject = "sample.bpf.c"\n', "")
    text = text.replace("depends =", 'agent = {object = "x.c"}\ndepends =')
    path = write(tmp_path, text)
    with pytest.raises(ModuleError) as caught:
        load_manifest(path)
    line = text[: text.index("agent = ")].count("\n") + 1
    assert str(caught.value).startswith(f"{path}:{line}: agent.object: ")


def test_every_field_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "modules.md").read_text()
    parts: list[type] = [Manifest]
    for part in parts:
        for field in msgspec.structs.fields(part):
            assert re.search(rf"\b{field.encode_name}\b", page), f"{part.__name__}.{field.name}"
            for kind in (field.type, *get_args(field.type)):
                if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                    parts.append(kind)
    assert {Limits, SandboxPart, KnobUse} <= set(parts)


KINDS = """
[[finding]]
name = "slow"
help = "It is slow."
severity = "warning"
score = "Ratio of present to usual latency."
unit = "1"
critical_from = 4.0
"""


def of_class(name: str) -> str:
    """The good manifest, of another class, without its knob."""
    text = GOOD.replace('"tuner"', f'"{name}"')
    return text[: text.index("[[knob]]")] + text[text.index("[[hook]]") :]


# A part of each kind, and the words that a class which may not hold it is refused with.
ASKED = {
    "knob": ('[[knob]]\nname = "block.read_ahead_kb"\n', "sets no knobs"),
    "chosen_by": ('chosen_by = "x"\n', "sets no knobs"),
    "outcome": (
        '[[outcome]]\nname = "o"\nhelp = "h"\nbetter = "lower"\nnumerator = ["requests"]\n',
        "makes no experiments",
    ),
    "guard": (
        '[[guard]]\nname = "g"\nhelp = "h"\nbetter = "lower"\nnumerator = ["requests"]\n'
        "limit = 2.0\n",
        "makes no experiments",
    ),
    "circumstance": (
        '[[circumstance]]\nname = "c"\nhelp = "h"\nnumerator = ["requests"]\n'
        'denominator = ["requests"]\nbounds = [1.0]\nclasses = ["few", "many"]\n',
        "makes no experiments",
    ),
    "evidence": ('[evidence]\nby = "module"\n', "makes no experiments"),
    "objective": (
        "[objective]\n"
        + "".join(
            f'{name} = "x"\n'
            for name in ("what", "better", "every", "timeout", "looks_back", "user")
        ),
        "has no objective",
    ),
    "model": ('[model]\n[[model.feature]]\nname = "f"\n', "has no model now"),
    "train": ('[train]\nentry = "recipe:Recipe"\n', "has no model now"),
    "finding": (KINDS, "hands over no findings"),
    "report": ('[[report]]\nname = "failure"\nhelp = "h"\n', "hands over no reports"),
    "driver": ('[driver]\nkind = "block"\n', "serves no device"),
}


def test_every_part_that_is_of_some_classes_only_is_tried() -> None:
    assert set(ASKED) == {part for service in SERVICES for part in service.parts}


@pytest.mark.parametrize("part", ASKED)
@pytest.mark.parametrize("name", class_names())
def test_a_manifest_holds_what_its_class_has_and_no_more(
    tmp_path: Path, name: str, part: str
) -> None:
    added, lacks = ASKED[part]
    text = of_class(name)
    if added.lstrip().startswith("["):
        text, line = text + added, text.count("\n") + 1 + added.startswith("\n")
    else:
        text, line = added + text, 1
    path = write(tmp_path, text)
    wanted = f"{path}:{line}: {part}{'[0]' if added.lstrip().startswith('[[') else ''}: a {name} "
    try:
        load_manifest(path)
    except ModuleError as error:
        said = str(error)
    else:
        said = ""
    if part in find_class(name).parts:
        # Two name parameters, which the manifest lacks, and a driver's target is the system.
        assert part in ("chosen_by", "objective", "driver") or not said
        assert lacks not in said
        return
    assert said.startswith(f"{wanted}{lacks}; that is for a ")
    others = [each for each in class_names() if part in find_class(each).parts]
    assert said.endswith(f"; that is for {' or '.join(f'a {each}' for each in others)}")


def test_a_detector_declares_findings_and_a_reporter_reports(tmp_path: Path) -> None:
    text = of_class("detector") + KINDS
    (kind,) = load_manifest(write(tmp_path, text)).findings
    assert (kind.name, kind.severity, kind.critical_from) == ("slow", "warning", 4.0)
    assert (kind.opens_after_s, kind.closes_after_s, kind.expires_s) == (0.0, 60.0, 300.0)
    text = of_class("reporter") + '[[report]]\nname = "failure"\nhelp = "h"\n'
    (report,) = load_manifest(write(tmp_path, text)).reports
    assert report.keep_days == 30.0


@pytest.mark.parametrize(
    ("class_", "added", "field", "message"),
    [
        ("detector", KINDS.replace('"warning"', '"bad"'), "severity", "finding[0].severity: Inva"),
        ("detector", KINDS + "closes_after_s = 0\n", "closes", "finding[0].closes_after_s: Expect"),
        ("detector", KINDS + "expires_s = 29\n", "expires", "finding[0].expires_s: Expected"),
        ("detector", KINDS + KINDS, "", "finding[1].name: 'slow' occurs more than once"),
        ("detector", KINDS + "state = 1\n", "state", "finding[0].state: Object contains unknown"),
    ],
)
def test_kinds_that_cannot_be(
    tmp_path: Path, class_: str, added: str, field: str, message: str
) -> None:
    text = of_class(class_) + added
    path = write(tmp_path, text)
    with pytest.raises(ModuleError) as caught:
        load_manifest(path)
    if field:
        message = f":{text.count(chr(10), 0, text.index(f'{chr(10)}{field}')) + 2}: {message}"
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"module\.toml:2: not TOML: "):
        load_manifest(write(tmp_path, 'name = "x"\nversion = ['))


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
