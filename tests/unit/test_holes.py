"""What the writer of the store had lost itself: a restore does without it, and only without that."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hookd import manifest
from hookd.digest import digest_of
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.journal import LedgerEntry
from hookd.manifest import Manifest
from hookd.restore import remote
from hookd.restore.local import Local
from hookd.restore.restorer import Done, Restorer
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    EXPECTED,
    NS,
    entries_of,
    files_of,
    lose,
    mine,
    store_all,
    wipe,
    zdb_at,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

D1, ACTIVE = data_key(NS, 1), data_key(NS, 3)


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED, "some values were lost before it was stored")


def put(store: MemoryStore, files: dict[FileKey, bytes], *holes: FileKey) -> Manifest:
    """The store has these, and a manifest that says so and names the holes."""
    store.content.update(files)
    made = manifest.build(entries_of(files), lineage="l", writer="w", sequence=7, holes=holes)
    store.records[manifest.NAME] = manifest.encode(made)
    return made


def without_d1(folder: Path) -> tuple[dict[FileKey, bytes], MemoryStore]:
    """A namespace of which somebody gave up d1; nothing of it is here any more."""
    zdb_at(folder)
    files, store = files_of(folder), MemoryStore(concurrency=4)
    del files[D1]
    put(store, files, D1)
    wipe(folder)
    return files, store


async def served(found: Rig) -> bool:
    """Whether zdb may begin."""
    await found.survey.survey()
    return (await found.survey.judge()).code == 0


async def test_what_was_skipped_is_not_missed(tmp_path: Path) -> None:
    """On one new machine after the other: the next manifest names it, too."""
    files, store = without_d1(tmp_path)
    for _ in range(2):
        async with rig(tmp_path, store, full=True, names=(NS,)) as found:
            assert await served(found)
            assert "values in d1 were lost" in found.survey.findings[NS].brought
            assert mine(tmp_path) == files
            await found.fence.publish()
        named = manifest.decode(store.records[manifest.NAME])
        assert named.holes == {D1}
        wipe(tmp_path)
        (tmp_path / "journal.db").unlink()


async def test_another_file_is(tmp_path: Path) -> None:
    """One that was stored and is gone is nobody's decision."""
    _, store = without_d1(tmp_path)
    del store.content[data_key(NS, 2)]
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert not await served(found)
        assert "d2 is neither here nor in the store" in found.held[NS]
        assert f"`hookd restore {NS} --to DIR` brings what is there" in found.held[NS]
        assert mine(tmp_path) == {}


async def test_not_the_active_one(tmp_path: Path) -> None:
    """zdb would write new values where the lost ones were, under their entries."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    del files[ACTIVE]
    put(store, files, ACTIVE)
    wipe(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert not await served(found)
        assert "d3 is neither here nor in the store" in found.held[NS]


@pytest.mark.parametrize("sealed", [True, False])
async def test_as_short_as_it_was_here(tmp_path: Path, sealed: bool) -> None:
    """A crash cut off a sealed data file before it was stored: nobody has more of it. One that was not
    sealed may have been stored before it was whole.
    """
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    files[D1] = files[D1][:-20]
    entries = [replace(each, sealed=sealed and each.sealed) for each in entries_of(files)]
    store.content.update(files)
    made = manifest.build(entries, lineage="l", writer="w", sequence=7)
    store.records[manifest.NAME] = manifest.encode(made)
    wipe(tmp_path)
    async with rig(tmp_path, store, full=True, names=(NS,)) as found:
        assert await served(found) is sealed
        if sealed:
            assert mine(tmp_path) == files
        else:
            assert "index entries point up to byte" in found.held[NS]


async def test_cut_off_here(tmp_path: Path) -> None:
    """What the store has more of is not lost: a machine without a journal does not serve less."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    put(store, files)
    lose(tmp_path, "i1")
    os.truncate(tmp_path / "data" / NS / "d1", 100)
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert not await served(found)
        assert "d1 has 100 bytes here, but index entries point up to byte" in found.held[NS]


async def test_it_lasts_until_the_file_is_stored_whole(tmp_path: Path) -> None:
    """Or its namespace is deleted. A shorter one that is there is none the better for it."""
    async with rig(tmp_path, MemoryStore()) as found:
        journal = found.journal
        await journal.note_holes([D1, data_key("other", 5)])
        await journal.note_holes([data_key(NS, 2)])
        assert set(await journal.holes()) == {D1, data_key(NS, 2), data_key("other", 5)}
        for sealed in (False, True):
            entry = LedgerEntry(
                key=D1, size_bytes=90, digest=bytes(16), stored_at=1.0, sealed=sealed
            )
            await journal.adopt([entry])
            assert (D1 in await journal.holes()) is not sealed
            await journal.forget([D1])
        await journal.retire(NS)
        assert set(await journal.holes()) == {data_key("other", 5)}


async def test_a_skip_is_named(tmp_path: Path) -> None:
    """Unless it was stored after all. An index that was skipped is no hole: zdb would end there."""
    zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store) as found:
        await found.dispatcher.departures.skips.add(D1, "absent")
        await found.dispatcher.departures.skips.add(index_key(NS, 2), "absent")
        await found.survey.survey()
        await store_all(found)
        await found.fence.publish()
    assert manifest.decode(store.records[manifest.NAME]).holes == set(), "d1 was stored after all"
    del store.content[D1]
    async with rig(tmp_path, store) as found:
        await found.journal.forget([D1])
        await found.fence.publish()
    assert manifest.decode(store.records[manifest.NAME]).holes == {D1}


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (index_key(NS, 1), "the store lacks i1"),
        (index_key(NS, 3), "the store lacks i3"),
        (D1, "d1 is neither here nor in the store"),
        (ACTIVE, "d3 is neither here nor in the store"),
        (namespace_key(NS), ""),
    ],
    ids=str,
)
async def test_to_look_at_all_comes(tmp_path: Path, lost: FileKey, said: str) -> None:
    """Whatever the store has lost, `hookd restore --to` brings the rest, and says what that is."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    named = put(store, files)
    del store.content[lost]
    done = await copied(tmp_path / "there", store, named)
    assert said in done.altered
    assert mine(tmp_path / "there") == store.content


@pytest.mark.parametrize("key", [index_key(NS, 0), index_key(NS, 2), D1, ACTIVE], ids=str)
async def test_to_look_at_what_is_damaged(tmp_path: Path, key: FileKey) -> None:
    """It comes as it is, with all the others."""
    zdb_at(tmp_path)
    files, store = files_of(tmp_path), MemoryStore()
    named = put(store, files)
    store.content[key] = b"garbage" if key.kind is Kind.INDEX else store.content[key][:40]
    done = await copied(tmp_path / "there", store, named)
    assert key.name in done.altered
    assert mine(tmp_path / "there") == store.content
    assert digest_of(store.content[key]) != digest_of(files[key])


async def copied(there: Path, store: MemoryStore, named: Manifest) -> Done:
    """All that the store has, in a folder."""
    roots = Roots(there / "index", there / "data")
    restorer = Restorer(store=store, roots=roots, full=True, as_it_is=True)
    return await restorer.restore(Local(NS), await remote.look(store, NS, named), named)
