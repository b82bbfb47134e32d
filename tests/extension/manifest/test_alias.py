# SPDX-License-Identifier: Apache-2.0
"""Patterns over device events: which devices they mean, and which they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.extension.manifest.alias import Alias

DISK = {"ACTION": "add", "DEVTYPE": "disk", "MAJOR": "8"}


@pytest.mark.parametrize(
    ("pattern", "subsystem", "name", "properties", "meant"),
    [
        ("block:*", "block", "sda", DISK, True),
        ("block:sd*", "block", "sda", DISK, True),
        ("block:sd?", "block", "sdaa", DISK, False),
        ("block:sd[a-c]", "block", "sdd", DISK, False),
        ("block:sd*", "net", "sda", DISK, False),
        ("block:SD*", "block", "sda", DISK, False),
        ("block:*,DEVTYPE=disk", "block", "sda", DISK, True),
        ("block:*,DEVTYPE=disk,MAJOR=8", "block", "sda", DISK, True),
        ("block:*,DEVTYPE=disk,MAJOR=9", "block", "sda", DISK, False),
        ("block:*,ID=*", "block", "sda", DISK, False),
        ("block:*,ID=", "block", "sda", DISK, False),
        ("block:*", "block", "sda", {"ACTION": "change"}, False),
        ("block:*", "block", "sda", {}, False),
        ("block:*,ACTION=change", "block", "sda", {"ACTION": "change"}, True),
        ("block:*,ACTION=change", "block", "sda", DISK, False),
        ("block:*,ACTION=[ac]*", "block", "sda", DISK, True),
        ("pci:0000:00:1f.?", "pci", "0000:00:1f.2", DISK, True),
        ("block:cciss!c*", "block", "cciss!c0d0", DISK, True),
    ],
)
def test_matches(
    pattern: str, subsystem: str, name: str, properties: dict[str, str], meant: bool
) -> None:
    assert Alias.parse(pattern).matches(subsystem, name, properties) is meant


@pytest.mark.parametrize(
    "text",
    ["", "block", ":sda", "block:", "Block:sda", "block:sd a", "block:sda,", "block:sda,x=1",
     "block:sda,DEVTYPE", "block:sda,=disk", "block:sda,A=1,,B=2", "block:sda\n", "*:sda"],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no SUBSYSTEM:NAME.*, such as block:sd\*"):
        Alias.parse(text)


NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1
)


@given(NAMES, st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True), NAMES))
def test_text_and_back(name: str, properties: dict[str, str]) -> None:
    text = ",".join([f"block:{name}", *(f"{key}={value}" for key, value in properties.items())])
    alias = Alias.parse(text)
    assert str(alias) == text
    assert (alias.name, dict(alias.properties)) == (name, properties)
