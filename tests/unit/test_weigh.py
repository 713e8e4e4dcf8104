"""Older or another history, by content: entries of an index, prefixes of data; no lengths are known."""

from __future__ import annotations

import struct
from pathlib import Path

import anyio
import pytest

from hookd.entries import HEADER_BYTES, Age, NotAnIndex, age_of
from hookd.files import FileKey, data_key, index_key, namespace_key
from hookd.restore.table import Decision, Here, There
from tests.fakes.audits import data_bytes, index_bytes
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import NS, files_of, fill, wipe, zdb_at

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]


def of_hook_sh(files: dict[FileKey, bytes]) -> MemoryStore:
    """A zstor that hook.sh filled: no manifest, no lengths, no list."""
    store = MemoryStore()
    store.knows_sizes = store.lists = False
    store.content.update(files)
    return store


# -- entries ---------------------------------------------------------------------------------------


def rewritten(content: bytes, number: int) -> bytes:
    """The first entry points into a newer data file, as after an update in sequential mode."""
    changed = bytearray(content)
    # idlength 1, offset 4, length 4, previous 4, flags 4: then dataid
    struct.pack_into("<I", changed, HEADER_BYTES + 17, number)
    return bytes(changed)


def flagged(content: bytes) -> bytes:
    """The first entry is deleted."""
    changed = bytearray(content)
    struct.pack_into("<I", changed, HEADER_BYTES + 13, 1)
    return bytes(changed)


OLD = index_bytes(0, values=2)


@pytest.mark.parametrize(
    ("content", "other", "age"),
    [
        (OLD, OLD, Age.NEWER),
        (index_bytes(0, values=3), OLD, Age.NEWER),
        (OLD, index_bytes(0, values=3), Age.OLDER),
        (rewritten(OLD, 4), OLD, Age.NEWER),
        (OLD, rewritten(OLD, 4), Age.OLDER),
        (flagged(OLD), OLD, Age.NEWER),
        (OLD, flagged(OLD), Age.OLDER),
        (rewritten(OLD, 4), index_bytes(0, values=3), Age.APART),
        (OLD, index_bytes(1, values=2), Age.APART),
        (OLD, OLD[:-1], Age.NEWER),
        (OLD[:HEADER_BYTES], OLD, Age.OLDER),
        (OLD[: HEADER_BYTES + 29] + b"????" + OLD[HEADER_BYTES + 33 :], OLD, Age.NEWER),
    ],
)
async def test_age(content: bytes, other: bytes, age: Age) -> None:
    """Entries are appended, and rewritten towards newer values only; the parent of one tells nothing."""
    assert age_of(content, other) is age


async def test_an_age_of_garbage() -> None:
    """Zeros are no index, of whatever age."""
    with pytest.raises(NotAnIndex):
        age_of(bytes(len(OLD)), OLD)
    with pytest.raises(NotAnIndex):
        age_of(OLD, b"")


# -- a survey over such a store --------------------------------------------------------------------


async def test_blank_files_beside_what_hook_sh_stored(tmp_path: Path) -> None:
    """One index is stored, zdb has made a blank one: the stored one comes back, nothing goes over it."""
    zdb = SilentZdb.at(tmp_path)
    zdb.create(NS)
    zdb.churn(NS, 6)
    newest = files_of(tmp_path)
    store = of_hook_sh(newest)
    wipe(tmp_path)
    SilentZdb.at(tmp_path).create(NS)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert found.survey.findings[NS].here is Here.EMPTY
        assert found.survey.findings[NS].decision is Decision.RESTORE
        assert (await found.survey.judge()).code == 0
    assert files_of(tmp_path) == newest
    assert store.content == newest


async def _served(found: Rig) -> bool:
    await found.survey.survey()
    return (await found.survey.judge()).code == 0


@pytest.mark.parametrize("sizes", [True, False])
async def test_older_files_with_the_journal_lost(tmp_path: Path, sizes: bool) -> None:
    """The disk is rolled back: shorter files do not go over longer ones."""
    stored = {index_key(NS, 0): index_bytes(0, values=9), data_key(NS, 0): data_bytes(0, 9)}
    store = of_hook_sh(stored)
    store.knows_sizes = sizes
    async with rig(tmp_path, store, names=(NS,)) as found:
        found.index(0, index_bytes(0, values=2), ns=NS)
        found.data(0, data_bytes(0, 2), ns=NS)
        assert not await _served(found)
        assert found.survey.findings[NS].here is Here.OLDER
        assert found.survey.findings[NS].there is There.FILES
        assert f"`hookd restore {NS} --take local|remote` decides" in found.held[NS]
        assert store.content == stored


@pytest.mark.parametrize("sizes", [True, False])
async def test_another_history_of_the_same_length(tmp_path: Path, sizes: bool) -> None:
    """No manifest names it, and no length tells: the entries do."""
    stored = {index_key(NS, 0): index_bytes(0), data_key(NS, 0): data_bytes(0)}
    other = {key: content.replace(b"value1", b"VALUE1") for key, content in stored.items()}
    index = bytearray(stored[index_key(NS, 0)])
    index[HEADER_BYTES + 25] ^= 1  # the CRC of the first value
    other[index_key(NS, 0)] = bytes(index)
    store = of_hook_sh(stored)
    store.knows_sizes = sizes
    async with rig(tmp_path, store, names=(NS,)) as found:
        for key, content in other.items():
            found.write(key, content)
        assert not await _served(found)
        assert found.survey.findings[NS].here is Here.FOREIGN
        assert store.content == stored


@pytest.mark.parametrize("sizes", [True, False])
async def test_newer_files_are_served(tmp_path: Path, sizes: bool) -> None:
    """zdb went on since hook.sh stored last: files that have grown, an index rewritten, one more."""
    store = of_hook_sh({})
    store.knows_sizes = sizes
    zdb = zdb_at(tmp_path, rotations=2)
    stored = files_of(tmp_path)
    store.content.update(stored)
    zdb.churn(NS, 6)
    zdb.rotate(NS)
    zdb.churn(NS, 6)
    newest = files_of(tmp_path)
    assert any(newest[key] != stored[key] for key in stored if key.number == 0)
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert await _served(found), found.held
        assert found.survey.findings[NS].decision is Decision.SERVE
    assert files_of(tmp_path) == newest


@pytest.mark.parametrize("sizes", [True, False])
async def test_a_store_ahead_of_its_manifest(tmp_path: Path, sizes: bool) -> None:
    """The manifest of the frontend before names shorter versions than were stored since."""
    zdb = zdb_at(tmp_path)
    named = files_of(tmp_path)
    zdb.churn(NS, 6)
    newest, store = files_of(tmp_path), MemoryStore()
    store.knows_sizes = sizes
    fill(store, named, named=True)
    store.content.update(newest)
    wipe(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        for key, content in named.items():
            found.write(key, content)
        assert not await _served(found)
        assert found.survey.findings[NS].here is Here.OLDER


@pytest.mark.parametrize("sizes", [True, False])
async def test_compared_before_the_first_put(tmp_path: Path, sizes: bool) -> None:
    """Served while the store was away, with an older disk and a new journal: held once it is back."""
    zdb_at(tmp_path, rotations=2)
    older = files_of(tmp_path)
    wipe(tmp_path)
    zdb_at(tmp_path)
    newest = files_of(tmp_path)
    store = of_hook_sh(newest)
    store.knows_sizes = sizes
    wipe(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        for key, content in older.items():
            found.write(key, content)
        store.down = "away"
        assert await _served(found)
        store.down = None
        await found.owe(data_key(NS, 2), freeze=True)
        with anyio.fail_after(10):
            await found.until(lambda: NS in found.held)
        assert store.puts == []
    assert store.content == newest


async def test_nothing_is_left_of_what_was_compared(tmp_path: Path) -> None:
    """What was fetched to be looked at goes again."""
    stored = {index_key(NS, 0): index_bytes(0, values=9), data_key(NS, 0): data_bytes(0, 9)}
    async with rig(tmp_path, of_hook_sh(stored), names=(NS,)) as found:
        found.index(0, index_bytes(0, values=2), ns=NS)
        found.data(0, data_bytes(0, 2), ns=NS)
        await found.survey.survey()
        assert list(found.staging.folder.glob("**/*")) == []


# -- the descriptor --------------------------------------------------------------------------------


def descriptor(password: bytes) -> bytes:
    """As zdb writes it (0-db libzdb/namespace.c)."""
    return (
        struct.pack("<IBBQB", 1, len(NS), len(password), 0, not password) + NS.encode() + password
    )


@pytest.mark.parametrize(
    ("here", "there", "served"),
    [(b"", b"secret", False), (b"secret", b"", True), (b"new", b"old", True), (b"", b"", True)],
)
async def test_a_public_descriptor_does_not_go_over_one_with_a_password(
    tmp_path: Path, here: bytes, there: bytes, served: bool
) -> None:
    """zdb made it where it found none: somebody decides which of the two is meant."""
    zdb_at(tmp_path)
    newest = files_of(tmp_path)
    store = of_hook_sh(newest | {namespace_key(NS): descriptor(there)})
    async with rig(tmp_path, store, names=(NS,)) as found:
        found.descriptor(descriptor(here), ns=NS)
        assert await _served(found) is served
        if not served:
            assert "no password here" in found.held[NS]


# -- beside a zdb that serves ----------------------------------------------------------------------


async def test_a_name_that_is_stored_and_not_here_is_held(tmp_path: Path) -> None:
    """Served while the store was away: what zdb makes under a lost name is not stored over it."""
    zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    lost = {index_key("zz", 0): index_bytes(0), data_key("zz", 0): data_bytes(0)}
    fill(store, newest | lost, named=True)
    async with rig(tmp_path, store, names=(NS,)) as found:
        store.down = "away"
        assert await _served(found)
        found.index(0, index_bytes(0, values=0), ns="zz")
        found.data(0, data_bytes(0, 0), ns="zz")
        store.down = None
        await found.fence.guard()
        assert "zz" in found.held
        assert NS not in found.held
        found.index(0, index_bytes(0, values=9), ns="zz")
        found.data(0, data_bytes(0, 9), ns="zz")
        await found.admit(found.closing(0, ns="zz"))
    assert {key: store.content[key] for key in lost} == lost
