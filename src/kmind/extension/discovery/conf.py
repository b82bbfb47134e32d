# SPDX-License-Identifier: Apache-2.0
r"""Administrator's configuration of modules: ``modules.d/*.conf``, one directive a line.

    alias PATTERN MODULE                      load MODULE for such devices
    options MODULE NAME=VALUE...              parameters, and mode=, wherever it is loaded
    blacklist MODULE                          load it only when it is named explicitly
    autoload MODULE TARGET [NAME=VALUE...]    load it when the daemon starts

The vendor's files and the administrator's are read in the order of their names, and one in /etc
hides that of the same name in /usr/lib: an empty one, or a link to /dev/null, removes it. Names
that begin with a dot are ignored. ``#`` begins a comment line, ``\`` at its end continues a line,
and quotes hold words together, as in a shell.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmind.abi.enums import MODES
from kmind.errors import ModuleError
from kmind.extension._parameter import MODE_WORD
from kmind.extension.manifest.alias import Alias
from kmind.extension.manifest.parameters import Setting, nearest
from kmind.paths import CONF_FOLDERS
from kmind.util.foreign import foreign, one_line
from kmind.util.trust import read_trusted
from kmind.util.words import split_word

__all__ = ["AliasLine", "Autoload", "ModuleConf"]

_WORDS = {
    "alias": "alias PATTERN MODULE",
    "options": "options MODULE NAME=VALUE...",
    "blacklist": "blacklist MODULE",
    "autoload": "autoload MODULE TARGET [NAME=VALUE...]",
}
_LONG = 500  # characters of what a message says


@dataclass(frozen=True)
class AliasLine:
    """``alias``: devices that a module is loaded for, beside those of its manifest."""

    pattern: Alias
    module: str
    at: str


@dataclass(frozen=True)
class Autoload:
    """``autoload``: an instance to make at the daemon's start.

    ``parameters`` are texts by name, without the mode, and ``mode`` is None where none is said.
    """

    module: str
    target: str
    parameters: Mapping[str, str]
    mode: str | None
    at: str


@dataclass(frozen=True)
class ModuleConf:
    """All files put together; ``at`` is the place of a line, as ``file:line``.

    ``autoload`` leaves blacklisted modules out. ``wrong`` says of each file that is wrong why, and
    ``passed_over`` names files that only look like one, as an editor leaves them.
    """

    aliases: tuple[AliasLine, ...] = ()
    autoload: tuple[Autoload, ...] = ()
    settings: tuple[tuple[str, Setting], ...] = ()
    blacklist: tuple[tuple[str, str], ...] = ()
    wrong: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    @classmethod
    def load(cls, dirs: Sequence[Path] | None = None, *, strict: bool = True) -> ModuleConf:
        """Read what is there, in ``CONF_FOLDERS`` by default.

        Raises ModuleError that names the file and the line. Unless ``strict``: then nothing
        of a wrong file counts but its blacklist, the other files do, and ``wrong`` says why.
        """
        merged = _merged(CONF_FOLDERS if dirs is None else dirs, strict=strict)
        reader, wrong = _Reader(), list(merged.wrong)
        for path in merged.files:
            one = _Reader()
            try:
                one.read(path)
            except ModuleError as error:
                if strict:
                    raise
                wrong.append(str(error))
                one = _Reader(blacklist=one.blacklist)
            reader.add(one)
        barred = {module for module, _ in reader.blacklist}
        return cls(
            tuple(reader.aliases),
            tuple(line for line in reader.autoload if line.module not in barred),
            tuple(reader.settings),
            tuple(reader.blacklist),
            tuple(wrong),
            tuple(merged.passed_over),
        )

    def remarks(self) -> list[str]:
        """One line for each file that does not count, or counts in part."""
        why = "ignored: only names that end in .conf and do not begin with a dot are read"
        return [
            *(
                f"this file is ignored, except for its blacklist lines: {mistake}"
                for mistake in self.wrong
            ),
            *(f"{name} {why}" for name in self.passed_over),
        ]

    def options(self, module: str) -> tuple[Setting, ...]:
        """The parameters set for a module, for ``parse_parameters``; not the mode."""
        return tuple(
            setting
            for name, setting in self.settings
            if name == module and setting.name != MODE_WORD
        )

    def mode(self, module: str) -> str | None:
        """The mode that its instances start in, ``"observe"`` to ``"auto"``, if one is set."""
        modes = [
            setting.text
            for name, setting in self.settings
            if name == module and setting.name == MODE_WORD
        ]
        return modes[-1] if modes else None

    def blacklisted(self, module: str) -> str | None:
        """The place of the line that bars it from being loaded by itself, else None."""
        return dict(self.blacklist).get(module)

    def unknown(self, known: Iterable[str]) -> list[str]:
        """One line for each place that names a module which is not among ``known``."""
        names = set(known)
        places = [
            *((line.module, line.at) for line in self.aliases),
            *((module, setting.at) for module, setting in self.settings),
            *((line.module, line.at) for line in self.autoload),
        ]
        return [
            f"{at}: there is no module {module!r}; {nearest(module, names)}"
            for module, at in dict.fromkeys(places)
            if module not in names
        ]


@dataclass
class _Reader:
    aliases: list[AliasLine] = field(default_factory=list)
    autoload: list[Autoload] = field(default_factory=list)
    settings: list[tuple[str, Setting]] = field(default_factory=list)
    blacklist: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: _Reader) -> None:
        self.aliases += other.aliases
        self.autoload += other.autoload
        self.settings += other.settings
        self.blacklist += other.blacklist

    def read(self, path: Path) -> None:
        # The whole file, and the first error at its end: what bars modules is not to be lost.
        with foreign(lambda why: ModuleError(f"{path}: cannot be read: {why}")):
            text = read_trusted(path, ModuleError).decode("utf-8")
        wrong: ModuleError | None = None
        for number, line in _lines(text):
            try:
                self._take(shlex.split(line), f"{path}:{number}")
            except Exception as error:  # whatever is wrong with one line
                message = one_line(error, _LONG) or type(error).__name__
                wrong = wrong or ModuleError(f"{path}:{number}: {message}")
        if wrong:
            raise wrong

    def _take(self, words: list[str], at: str) -> None:
        word, *rest = words
        if word not in _WORDS:
            raise ValueError(f"unknown word {word!r}; {nearest(word, _WORDS)}")
        least = {"blacklist": 1}.get(word, 2)
        if len(rest) < least or (word in ("alias", "blacklist") and len(rest) > least):
            raise ValueError(f"the syntax is: {_WORDS[word]}")
        if word == "alias":
            self.aliases.append(AliasLine(Alias.parse(rest[0]), _module(rest[1]), at))
            return
        module = _module(rest[0])
        if word == "blacklist":
            self.blacklist.append((module, at))
        elif word == "options":
            self.settings += [(module, setting) for setting in _settings(rest[1:], at)]
        else:
            if "=" in rest[1]:
                raise ValueError(f"{rest[1]!r} is not a target; the syntax is: {_WORDS[word]}")
            given = _settings(rest[2:], at)
            parameters = {
                setting.name: setting.text for setting in given if setting.name != MODE_WORD
            }
            modes = [setting.text for setting in given if setting.name == MODE_WORD]
            mode = modes[-1] if modes else None
            self.autoload.append(Autoload(module, rest[1], parameters, mode, at))


def _settings(words: list[str], at: str) -> list[Setting]:
    settings = [Setting(*split_word(word), at) for word in words]
    names = [setting.name for setting in settings]
    for setting in settings:
        if names.count(setting.name) > 1:
            raise ValueError(f"{setting.name} is given twice")
        if setting.name == MODE_WORD and setting.text not in MODES:
            raise ValueError(f"mode is {setting.text!r}, and must be one of {', '.join(MODES)}")
    return settings


def _module(word: str) -> str:
    return word.replace("-", "_")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Number of the first line, and the whole, of each that says something.
    begun, start = "", 0
    rows = text.splitlines()
    for number, row in enumerate(rows, 1):
        if not begun and row.lstrip().startswith("#"):
            continue
        start = start or number
        if row.endswith("\\") and number < len(rows):
            begun += row[:-1] + " "
            continue
        if (begun + row).strip():
            yield start, begun + row
        begun, start = "", 0


@dataclass(frozen=True)
class _Found:
    files: list[Path]
    passed_over: list[str]
    wrong: list[str]


def _merged(dirs: Sequence[Path], *, strict: bool) -> _Found:
    found: dict[str, Path] = {}
    passed_over, wrong = [], []
    for folder in dirs:
        try:
            paths = sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            message = f"{folder}: cannot be read: {error.strerror}"
            if strict:
                raise ModuleError(message) from None
            wrong.append(message)
            continue
        for path in paths:
            # As an editor names its locks and copies, and a package manager what it has replaced.
            if path.suffix == ".conf" and not path.name.startswith("."):
                found[path.name] = path
            elif ".conf" in path.name:
                passed_over.append(str(path))
    # /dev/null is not asked whose it is: it says nothing.
    null = os.path.realpath("/dev/null")
    files = [found[name] for name in sorted(found) if os.path.realpath(found[name]) != null]
    return _Found(files, passed_over, wrong)
