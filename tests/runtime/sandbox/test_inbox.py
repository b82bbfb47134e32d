# SPDX-License-Identifier: Apache-2.0
"""Notes reach the handler of their kind, and what is of none is left out in a line."""

from __future__ import annotations

from pathlib import Path

from extension_process import running
from hypothesis import given
from hypothesis import strategies as st

from kmind.extension import Manifest, find_module
from kmind.extension.handover import NOTE_MOST, Filed, Found, read
from kmind.runtime.sandbox.framing import MARK, send_note
from kmind.runtime.sandbox.inbox import Inbox

MANIFEST = find_module("static").manifest


class Taken:
    """A handler that keeps what it is given."""

    kinds: tuple[str, ...] = ("one", "two")

    def __init__(self) -> None:
        self.manifest: Manifest = MANIFEST
        self.notes: list[tuple[str, bytes]] = []

    def handle(self, kind: str, text: bytes) -> None:
        self.notes.append((kind, text))


class Lines:
    """Output of ``send_note``."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, text: str, /) -> int:
        self.lines.append(text[:-1].encode())
        return len(text)

    def end_line(self) -> None:
        pass


def sent(kind: str, text: bytes) -> list[bytes]:
    output = Lines()
    send_note(output, kind, text)
    return output.lines


def test_each_goes_to_the_handler_of_its_kind() -> None:
    handler, log = Taken(), list[str]()
    inbox = Inbox([handler], log.append, lambda: 0.0)
    long = b"x" * NOTE_MOST
    assert inbox.handle([*sent("one", b"a b"), *sent("two", long), *sent("three", b"c")]) == 3
    assert handler.notes == [("one", b"a b"), ("two", long)]
    assert log == ["a message of the extension is left out: its kind is unknown"]


def test_broken_ones_cost_twenty_lines_a_minute() -> None:
    handler, log = Taken(), list[str]()
    inbox = Inbox([handler], log.append, lambda: 0.0)
    for _ in range(100):
        assert inbox.handle([MARK + b"3 9 x"]) == 0
        inbox.handle(sent("three", b""))
    assert len(log) == 21
    assert inbox.handle(sent("one", b"good")) == 1
    assert handler.notes == [("one", b"good")]


def test_handlers_judge_by_the_module_that_is_loaded_now() -> None:
    handler = Taken()
    other = find_module("slowio").manifest
    Inbox([handler], print, lambda: 0.0).set_manifest(other)
    assert handler.manifest is other


FINDS = """\
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        self.context.finding("slow", title="It is slow: " + 150 * "x", score=2)
        print("a line of the log")
        self.context.file_report("failure", signature="s", title="T.", files={"a": bytes(9000)})

    def status(self):
        return {}
"""


def test_from_a_process_without_privileges(tmp_path: Path) -> None:
    handler, log = Taken(), list[str]()
    handler.kinds = ("finding", "report")
    inbox = Inbox([handler], log.append, lambda: 0.0)
    with running(tmp_path, FINDS, findings=("slow",), reports=("failure",)) as it:

        def both() -> bool:
            inbox.handle(it.process.receive_parts())
            return len(handler.notes) == 2

        it.until(both)
        assert [kind for kind, _ in handler.notes] == ["finding", "report"]
        assert read(handler.notes[0][1], Found).score == 2.0
        assert read(handler.notes[1][1], Filed).files == {"a": bytes(9000)}
        assert it.said("a line of the log")
        assert log == []


@given(st.lists(st.binary(max_size=60)), st.booleans())
def test_any_bytes_are_borne(lines: list[bytes], headed: bool) -> None:
    handler, log = Taken(), list[str]()
    inbox = Inbox([handler], log.append, lambda: 0.0)
    inbox.handle(MARK + (b"0 1 " if headed else b"") + line for line in lines)
    assert all(line.isprintable() for line in log)
