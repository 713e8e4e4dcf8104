"""Names in rclone's standard form."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hookd.stores.rclone_names import from_standard, to_standard


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("ns", "ns"),
        (" a é 漢 .d ", " a é 漢 .d "),
        ("a\nb", "a\u240ab"),
        ("a\x7f", "a\u2421"),
        ("a\u240ab", "a\u201b\u240ab"),
        ("a\uff0fb", "a\u201b\uff0fb"),
        ("\u201b", "\u201b\u201b"),
        ("\uff0e", "\u201b\uff0e"),
    ],
)
def test_as_rclone_writes_them(name: str, standard: str) -> None:
    """As rclone 1.75.2 lists a folder of that name."""
    assert to_standard(name) == standard
    assert from_standard(standard) == name


@given(st.text(min_size=1).filter(lambda name: "/" not in name and "\0" not in name))
@example("..")
@example("\uff0e\uff0e")
@example("\u201b\u240a\n")
def test_there_and_back(name: str) -> None:
    """No two names share a form, and no form holds a slash or a control character."""
    standard = to_standard(name)
    assert from_standard(standard) == name
    assert not any(char < " " or char in "/\x7f" for char in standard)
