"""A restore and the store's bytes: what was altered there is not placed, what zdb made of it since is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd import manifest
from hookd.digest import digest_of
from hookd.files import FileKey, Roots, data_key, index_key, namespace_key
from hookd.restore import remote
from hookd.restore.local import Local
from hookd.restore.proof import OTHER
from hookd.restore.restorer import Restorer
from tests.conftest import Logs
from tests.fakes.rig import rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    EXPECTED,
    NS,
    entries_of,
    files_of,
    fill,
    mine,
    store_and_say,
    stored_by_us,
    wipe,
    zdb_at,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

ACTIVE, NEWEST = data_key(NS, 3), index_key(NS, 3)


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED)


def alter(store: MemoryStore, key: FileKey, at: int = -3) -> bytes:
    """Other bytes of the same length, with a checksum of their own; what was there."""
    before = store.content[key]
    changed = bytearray(before)
    changed[at] ^= 0xFF
    store.content[key] = bytes(changed)
    return before


@pytest.mark.parametrize("key", [ACTIVE, NEWEST, index_key(NS, 0), namespace_key(NS)], ids=str)
async def test_not_what_the_ledger_says(tmp_path: Path, key: FileKey) -> None:
    """Refused as often as it is asked for, and the ledger stays; the right file back, all is well."""
    store = await stored_by_us(tmp_path)
    files = mine(tmp_path)
    before = alter(store, key)
    wipe(tmp_path)
    for _ in range(2):
        async with rig(tmp_path, store) as found:
            await found.survey.survey()
            ready = await found.survey.judge()
            assert ready.code == 1
            assert f"{key} {OTHER}" in ready.text
            assert "bring the right file back into the store" in ready.text
            assert f"`hookd restore {NS} --to DIR`" in ready.text
            assert mine(tmp_path) == {}
            assert (await found.ledger())[key].digest == digest_of(before)
    store.content[key] = before
    async with rig(tmp_path, store, full=True) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert mine(tmp_path) == files


async def test_a_file_that_is_here(tmp_path: Path) -> None:
    """Is not asked of the store; what the ledger says of it stays, so that the audit mends it there."""
    store = await stored_by_us(tmp_path)
    before = alter(store, ACTIVE)
    (tmp_path / "index" / NS / "i1").unlink()
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert (await found.ledger())[ACTIVE].digest == digest_of(before)


@pytest.mark.parametrize("key", [ACTIVE, NEWEST], ids=str)
async def test_not_what_anothers_manifest_names(tmp_path: Path, key: FileKey) -> None:
    """A new machine: other bytes of the active data file, or an entry that names what is not there."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    fill(store, files, named=True)
    alter(store, key, at=95)  # in a value, or in the checksum of one that an entry has
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        ready = await found.survey.judge()
        assert ready.code == 1
        assert f"{key} {OTHER}" in ready.text
        assert mine(tmp_path) == {}


async def test_longer_but_not_its_continuation(tmp_path: Path) -> None:
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    fill(store, files, named=True)
    alter(store, ACTIVE, at=40)
    store.content[ACTIVE] += b"more"
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert f"{ACTIVE} {OTHER}" in (await found.survey.judge()).text
        assert mine(tmp_path) == {}


async def test_stored_after_the_last_manifest(tmp_path: Path) -> None:
    """By a frontend that died: the active files longer, older indexes rewritten, one pair more."""
    zdb = zdb_at(tmp_path)
    store = MemoryStore()
    fill(store, files_of(tmp_path), named=True)
    zdb.churn(NS, 9)
    zdb.rotate(NS)
    zdb.churn(NS, 4)
    files = files_of(tmp_path)
    changed = {key for key in files if store.content.get(key) not in (None, files[key])}
    assert ACTIVE in changed
    assert len(changed) > 2
    store.content.update(files)
    wipe(tmp_path)
    async with rig(tmp_path, store, full=True) as found:
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 0, answer.text
        assert files_of(tmp_path) == files


async def test_to_look_at(tmp_path: Path) -> None:
    """`hookd restore --to` brings it as it is, and says so."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    fill(store, files, named=True)
    named = {entry.key: entry for entry in entries_of(files)}
    alter(store, data_key(NS, 1))
    there = tmp_path / "there"
    found = manifest.build(list(named.values()), lineage="l", writer="w", sequence=7)
    restorer = Restorer(
        store=store, roots=Roots(there / "index", there / "data"), full=True, as_it_is=True
    )
    done = await restorer.restore(Local(NS), await remote.look(store, NS, found), found)
    assert str(data_key(NS, 1)) in done.altered
    assert mine(there) == store.content


@pytest.mark.parametrize("altered", [None, ACTIVE, NEWEST], ids=str)
async def test_what_is_stored_was_chosen(tmp_path: Path, altered: FileKey | None) -> None:
    """A put whose job was given up for that may have come later: longer is right, altered is not."""
    zdb, store = zdb_at(tmp_path), MemoryStore()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await store_and_say(found)
    zdb.churn(NS, 2)
    files = mine(tmp_path)
    for each in (ACTIVE, NEWEST, *(index_key(NS, n) for n in range(3))):
        store.content[each] = files[each]
    if altered is not None:
        alter(store, altered, at=95)
    async with rig(tmp_path, store, names=(NS,), full=True) as found:
        await found.survey.choices.choose(NS, "remote")
        await found.survey.survey()
        answer = await found.survey.judge()
        if altered is not None:
            assert f"{altered} {OTHER}" in answer.text
            return
        assert answer.code == 0, answer.text
        assert mine(tmp_path) == files
