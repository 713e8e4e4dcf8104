"""The order of a file's contents that the kill rounds of a real zdb go by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.zdb_files import DELETED, Place, header, index_entry
from tests.real.announced import holds

HEAD = header("index", 1, 7)
PLACE = Place(1, 0, data=1, offset=100, length=10)


def entry(key: bytes, place: Place = PLACE, flags: int = 0) -> bytes:
    return index_entry(place, key, b"value", 7, flags)


WHOLE = HEAD + entry(b"a") + entry(b"bc")

NEWER = {
    "the same": WHOLE,
    "opened again": header("index", 1, 8) + WHOLE[len(HEAD) :],
    "another entry": WHOLE + entry(b"d"),
    "into a later data file": HEAD + entry(b"a", replace(PLACE, data=2, offset=9)) + entry(b"bc"),
    "further on": HEAD + entry(b"a") + entry(b"bc", replace(PLACE, offset=200)),
    "deleted": HEAD + entry(b"a", flags=DELETED) + entry(b"bc"),
}


@pytest.mark.parametrize("newer", NEWER.values(), ids=NEWER)
def test_newer_holds_older(newer: bytes) -> None:
    """And not the other way round, unless they are the same but for the header."""
    assert holds("index/ns/i1", newer, WHOLE)
    same = newer[len(HEAD) :] == WHOLE[len(HEAD) :]
    assert holds("index/ns/i1", WHOLE, newer) == same


def test_another_key() -> None:
    """Other keys at the same place are another file."""
    assert not holds("index/ns/i1", HEAD + entry(b"a") + entry(b"xy"), WHOLE)


def test_data() -> None:
    """Values are only ever appended."""
    assert holds("data/ns/d1", b"DAT0 one two", b"DAT0 one")
    assert not holds("data/ns/d1", b"DAT0 one", b"DAT0 one two")
    assert not holds("data/ns/d1", b"DAT0 two one", b"DAT0 one")
