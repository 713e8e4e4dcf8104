"""The manifest's bytes: what an older hookd must still read, and what it must not."""

from __future__ import annotations

import json

import pytest

from hookd import manifest
from hookd.files import data_key, index_key
from hookd.journal import LedgerEntry
from hookd.manifest import ManifestBad, ManifestNewer

WRITTEN = (
    b'{"hookd":1,"lineage":"l","writer":"w","sequence":7,"written_at":1.5,'
    b'"namespaces":{"ns":{"i0":[143,"00112233445566778899aabbccddeeff",1.0,false]}},'
    b'"deleted":["gone"],"stale":{"ns":{"i7":"ffeeddccbbaa99887766554433221100"}},'
    b'"sum":"383e0247121a88a76a06a4b99d64dfc8"}\n'
)
"""By a hookd that knew of nothing that was given up."""


def entry(name: str, number: int) -> LedgerEntry:
    """One of a namespace."""
    make = data_key if name[0] == "d" else index_key
    return LedgerEntry(
        key=make("ns", number), size_bytes=100, digest=bytes(16), stored_at=2.0, sealed=False
    )


def test_what_was_written_before_is_read() -> None:
    """A field that came later is not in the sum of one that lacks it."""
    found = manifest.decode(WRITTEN)
    assert set(found.files) == {index_key("ns", 0)}
    assert found.given_up == {}
    assert manifest.encode(found) == WRITTEN


def test_given_up_comes_back_and_needs_the_newer_version() -> None:
    """An older hookd would take what was given up for files of the namespace: it must refuse."""
    made = manifest.build(
        [entry("d", 5)],
        lineage="l",
        writer="w",
        sequence=8,
        deleted=["ns"],
        stale={index_key("ns", 0): bytes(16)},
        given_up=[entry("i", 0), entry("d", 0)],
    )
    content = manifest.encode(made)
    assert json.loads(content)["hookd"] == 2
    assert manifest.decode(content) == made
    assert set(made.given_up) == {index_key("ns", 0), data_key("ns", 0)}
    assert (made.stale, made.deleted) == ({}, ())
    with pytest.raises(ManifestBad):
        manifest.decode(content.replace(b"100", b"101"))
    with pytest.raises(ManifestNewer, match="version 4, this hookd knows up to 3"):
        manifest.decode(content.replace(b'"hookd":2', b'"hookd":4'))


def test_holes_come_back_and_need_the_newest_version() -> None:
    """Their field is in the sum: an older hookd would take the manifest for damaged."""
    holes = [data_key("ns", 12), data_key("ns", 3), data_key("other", 0)]
    made = manifest.build(
        [entry("d", 5)], lineage="l", writer="w", sequence=8, holes=holes, given_up=[entry("i", 0)]
    )
    content = manifest.encode(made)
    assert json.loads(content)["hookd"] == 3
    assert json.loads(content)["holes"] == {"ns": ["d3", "d12"], "other": ["d0"]}
    assert manifest.decode(content) == made
