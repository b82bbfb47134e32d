# SPDX-License-Identifier: Apache-2.0
"""The contract: the built-in modules keep to it, and each check finds what it is for."""

import shutil
from pathlib import Path

import pytest
from agents import compile_bpf

from kmind.extension import list_modules
from kmind.testing import CHECKS, Check, ContractError, check_module

MANIFEST = """\
name = "sample"
version = "1"
class = "tuner"
description = "A module for tests."
author = "The kmind authors"
licence = "Apache-2.0"

[agent]
object = "sample.bpf.c"

[extension]
entry = "extension:Sample"

[target]
kind = "block"

[[knob]]
name = "block.read_ahead_kb"

[[hook]]
program = "on_fault"
tracepoint = "mm_filemap_fault"

[[parameter]]
name = "step"
type = "int"
default = 1
help = "how much a fault counts"
agent = true

[[parameter]]
name = "seed"
type = "int"
default = 0
help = "seed of the values"

[[feature]]
name = "reads"
kind = "counter"
help = "faults"

[[feature]]
name = "left"
kind = "gauge"
help = "the last index"

[[table]]
name = "files"
help = "faults by file system"
rows = 9

[[table.key]]
name = "device"
type = "u32"
help = "its number"

[[table.key]]
name = "kind"
type = "u32"
help = "always 0"

[[table.column]]
name = "faults"
kind = "counter"
help = "faults there"

[[table.column]]
name = "pages"
kind = "histogram"
high = 8
help = "their indices"
"""

EXTENSION = """\
from kmind.extension import Extension


class Sample(Extension):
    def __init__(self, context):
        super().__init__(context)
        self.seen = 0

    def start(self):
        self.last = {}

    def on_windows(self, windows):
        self.seen += sum(row["faults"] > 9 for row in self.context.tables["files"].copy())
        self.seen += int(windows["value"][:, 0].max(initial=0)) > 0
        knob = self.context.knobs["block.read_ahead_kb"]
        value = knob.minimum + int(self.context.rng.integers(2)) * knob.grid
        if len(windows) == 3:
            self.context.recommend(
                knob.name,
                value,
                reason="Three windows came at once.",
                evidence={"seen": self.seen},
                hold_s=1.0,
            )

    def on_records(self, records):
        self.seen += len(records)

    def on_mode(self, mode):
        self.last["mode"] = mode

    def on_verdict(self, verdict):
        self.last["verdict"] = verdict.verdict

    def on_change(self, change):
        self.last["change"] = change.value

    def status(self):
        return {"seen": self.seen, **self.last}
"""

KNOB = """\
[[knob]]
name = "block.read_ahead_kb"

"""

HOOK = """\
[[hook]]
program = "on_fault"
tracepoint = "mm_filemap_fault"
"""

# What is wrong: the check that must find it, then what is replaced by what. Text of the
# manifest and of the extension never coincide.
BROKEN = {
    "a field that is missing": ("manifest", 'version = "1"\n', ""),
    "a knob that is unknown": ("manifest", "block.read_ahead_kb", "block.read_behind_kb"),
    "a knob of another target": ("manifest", '"block"\n', '"system"\n'),
    "a hook without a program": ("programs", '"on_fault"', '"on_read"'),
    "a program without a hook": ("programs", HOOK, ""),
    "a hook on another tracepoint": ("programs", '"mm_filemap_fault"', '"mm_filemap_map_pages"'),
    "an alternative that is no program": (
        "programs",
        HOOK,
        HOOK + '[[hook.alternative]]\nprogram = "on_entry"\nfunction = "filemap_fault"\n\n',
    ),
    "a feature of another name": ("features", '"left"', '"right"'),
    "a feature too many": (
        "features",
        '[[feature]]\nname = "left"',
        '[[feature]]\nname = "more"\nkind = "counter"\nhelp = "?"\n\n[[feature]]\nname = "left"',
    ),
    "a gauge that counts": ("features", 'kind = "gauge"', 'kind = "counter"'),
    "a constant that is absent": ("parameters", 'help = "seed', 'agent = true\nhelp = "seed'),
    "a constant that is no parameter": ("parameters", "agent = true\n", ""),
    "a table of another name": ("tables", 'name = "files"', 'name = "disks"'),
    "a key of another size": ("tables", 'type = "u32"', 'type = "u64"'),
    "a column of another name": ("tables", 'name = "faults"', 'name = "misses"'),
    "a histogram of another length": ("tables", "high = 8", "high = 9"),
    "a table that is written to": (
        "windows",
        "self.last = {}",
        "self.last = {}; self.context.tables['files'].rows['faults'] = 0",
    ),
    "a row that has to be there": (
        "windows",
        "        self.seen += sum(",
        "        assert len(self.context.tables['files'])\n        self.seen += sum(",
    ),
    "an import from inside kmind": (
        "imports",
        "from kmind.ext",
        "import kmind.abi\nfrom kmind.ext",
    ),
    "an import of a part": ("imports", "from kmind.extension ", "from kmind.extension._base "),
    "an import of what is not named": (
        "imports",
        "from kmind.ext",
        "try:\n    import scipy\nexcept ImportError:\n    pass\nfrom kmind.ext",
    ),
    "a number drawn too early": (
        "construction",
        "self.seen = 0",
        "self.seen = context.rng.integers(2)",
    ),
    "a line logged too early": (
        "construction",
        "self.seen = 0",
        "self.seen = 0; context.log('up')",
    ),
    "a recommendation too early": (
        "construction",
        "self.seen = 0",
        "self.seen = 0; context.recommend('block.read_ahead_kb', 4, reason='So.', evidence={}, "
        "hold_s=1)",
    ),
    "a file opened too early": ("construction", "self.seen = 0", "self.seen = open('/dev/null')"),
    "a thread started too early": (
        "construction",
        "self.seen = 0",
        "import threading; self.seen = 0; self.wait = threading.Event(); "
        "threading.Thread(target=self.wait.wait, args=(1,), daemon=True).start()",
    ),
    "a context that is lost": ("construction", "super().__init__(context)", "pass"),
    "a division by what is 0": (
        "windows",
        "self.seen += int",
        "1 / int(windows['value'].sum())\n        self.seen +=",
    ),
    "a window that must be there": ("windows", "self.seen +=", "windows[5]\n        self.seen +="),
    "a window that is written to": (
        "windows",
        "self.seen +=",
        "windows['seq'] = 0\n        self.seen +=",
    ),
    "a number too large": (
        "windows",
        "self.seen +=",
        "windows['value'].astype(object).max() < 1 << 63 or 1 / 0\n        self.seen +=",
    ),
    "a window that may not be missing": (
        "windows",
        "self.seen +=",
        "assert windows['seq'][-1] - windows['seq'][0] == len(windows) - 1\n        self.seen +=",
    ),
    "a record that must be of one kind": (
        "records",
        "self.seen += len(records)",
        "{64: 1}[int(records['kind'][0])]",
    ),
    "a mode that is not expected": ("modes", "= mode", '= {"auto": 1, "canary": 2}[mode]'),
    "a verdict that is not expected": (
        "verdicts",
        "= verdict.verdict",
        "= {'approved': 1, 'renewed': 2}[verdict.verdict]",
    ),
    "a change that is not expected": (
        "verdicts",
        "= change.value",
        "= {'applied': 1, 'undone': 2}[change.kind]",
    ),
    "a value above its bounds": ("recommendations", "knob.minimum +", "knob.maximum + 4 +"),
    "a value off the grid": ("recommendations", "* knob.grid", "* 3 + 1"),
    "a knob that is not granted": (
        "windows",
        "                knob.name",
        "                'vm.swappiness'",
    ),
    "a reason without an end": ("reasons", "at once.", "at once"),
    "a reason that goes on": ("reasons", "at once.", "at once, and so on" * 20 + "."),
    "evidence that is not finite": ("windows", '"seen": self', '"nan": float("nan"), "seen": self'),
    "a generator of its own": (
        "repeatable",
        "self.context.rng.integers(2)",
        "__import__('secrets').randbelow(2)",
    ),
    "a predictor that predicts from nothing": (
        "abstention",
        'class = "tuner"',
        'class = "predictor"',
    ),
    "a status that is no mapping": ("status", 'return {"seen"', 'return [1] or {"seen"'),
    "a status that JSON cannot hold": ("status", '"seen": self.seen', '"seen": object()'),
    "a status that is too long": ("status", '"seen": self.seen', '"seen": "x" * 5000'),
}


FINDING = """
[[finding]]
name = "slow"
help = "It is slow."
severity = "info"
score = "How slow."
"""

REPORT = """
[[report]]
name = "failure"
help = "It failed."
"""

# What is wrong: the check that must find it, the class, the kinds that it declares, and code that
# on_windows begins with.
HANDED_OVER = {
    "a title without an end": (
        "findings", "detector", FINDING, "self.context.finding('slow', title='Slow', score=1)",
    ),
    "too many findings": (
        "findings", "detector", FINDING,
        "[self.context.finding('slow', part=str(n), title='Slow.', score=1) for n in range(65)]",
    ),
    "a finding of a kind that is not declared": (
        "windows", "detector", FINDING, "self.context.finding('fast', title='Fast.', score=1)",
    ),
    "a score that is not a number": (
        "windows", "detector", FINDING,
        "self.context.finding('slow', title='Slow.', score=float('nan'))",
    ),
    "a report without a sentence": (
        "reports", "reporter", REPORT,
        "self.context.file_report('failure', signature='s', title='Failed')",
    ),
    "a report of each window": (
        "reports", "reporter", REPORT,
        "[self.context.file_report('failure', signature='s', title='It failed.')"
        " for _ in windows]",
    ),
    "a report of each record": ("reports", "reporter", REPORT, "pass"),
    "a finding of a reporter": (
        "windows", "reporter", REPORT, "self.context.finding('slow', title='Slow.', score=1)",
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("sample.bpf.c")
    return compile_bpf(source, tmp_path_factory.mktemp("sample") / "sample.bpf.o")


def write(folder: Path, compiled: Path, old: str = "", new: str = "") -> str:
    """A module with one thing replaced; its folder."""
    module = folder / "sample"
    module.mkdir(parents=True)
    shutil.copy(compiled, module)
    if old:
        assert (old in MANIFEST) != (old in EXTENSION) or old == "block.read_ahead_kb"
    (module / "module.toml").write_text(MANIFEST.replace(old, new) if old else MANIFEST)
    (module / "extension.py").write_text(EXTENSION.replace(old, new) if old else EXTENSION)
    return str(module)


@pytest.mark.parametrize("check", CHECKS, ids=str)
@pytest.mark.parametrize("name", [module.manifest.name for module in list_modules()[0]])
def test_built_in_modules(name: str, check: Check) -> None:
    check(name)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_a_good_module(tmp_path: Path, compiled: Path, check: Check) -> None:
    check(write(tmp_path, compiled))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_module(tmp_path: Path, compiled: Path, what: str) -> None:
    name, old, new = BROKEN[what]
    module = write(tmp_path, compiled, old, new)
    by_name = {check.name: check for check in CHECKS}
    with pytest.raises(ContractError) as caught:
        by_name[name](module)
    assert "\n" not in str(caught.value)


def write_finder(folder: Path, compiled: Path, class_: str, kinds: str, code: str) -> str:
    """A module of a class that hands something over in on_windows; its folder."""
    module = Path(write(folder, compiled))
    text = MANIFEST.replace('class = "tuner"', f'class = "{class_}"') + kinds
    (module / "module.toml").write_text(text.replace(KNOB, ""))
    start, end = EXTENSION.index("        knob ="), EXTENSION.index("\n    def on_records")
    source = f"{EXTENSION[:start]}        {code}\n{EXTENSION[end:]}"
    if code == "pass":
        source = source.replace(
            "        self.seen += len(records)",
            "        self.context.file_report('failure', signature='s', title='It failed.')",
        )
    (module / "extension.py").write_text(source)
    return str(module)


@pytest.mark.parametrize("what", HANDED_OVER)
def test_a_module_that_hands_over_what_it_may_not(
    tmp_path: Path, compiled: Path, what: str
) -> None:
    name, class_, kinds, code = HANDED_OVER[what]
    module = write_finder(tmp_path, compiled, class_, kinds, code)
    by_name = {check.name: check for check in CHECKS}
    by_name["manifest"](module)
    with pytest.raises(ContractError) as caught:
        by_name[name](module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("class_", "kinds", "code"),
    [
        (
            "detector",
            FINDING,
            "self.context.finding('slow', title='It is slow.', score=1) if self.seen % 3 "
            "else self.context.clear_finding('slow')",
        ),
        (
            "reporter",
            REPORT,
            "self.seen % 9 or self.context.file_report('failure', signature='s', title='F.')",
        ),
    ],
)
def test_a_module_that_hands_over_what_it_may(
    tmp_path: Path, compiled: Path, class_: str, kinds: str, code: str
) -> None:
    check_module(write_finder(tmp_path, compiled, class_, kinds, code))


def test_all_failures_are_told_at_once(tmp_path: Path, compiled: Path) -> None:
    check_module(write(tmp_path / "good", compiled))
    module = Path(write(tmp_path / "bad", compiled, "at once.", "at once"))
    manifest = module / "module.toml"
    manifest.write_text(manifest.read_text().replace('"on_fault"', '"on_read"'))
    with pytest.raises(ContractError) as caught:
        check_module(str(module))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "programs",
        "reasons",
    ]


def test_every_check_has_a_module_that_fails_it() -> None:
    broken = [*BROKEN.values(), *HANDED_OVER.values()]
    assert {check.name for check in CHECKS} == {name for name, *_ in broken}
    assert all(check.meaning.endswith(".") for check in CHECKS)


def test_an_object_that_is_absent(tmp_path: Path, compiled: Path) -> None:
    module = write(tmp_path, compiled)
    (Path(module) / "sample.bpf.o").unlink()
    with pytest.raises(ContractError, match="compile the agent first"):
        check_module(module)


def test_an_unknown_module() -> None:
    with pytest.raises(ContractError, match=r"manifest: .*there is no module"):
        check_module("readabehind")
