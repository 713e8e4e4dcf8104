"""namespaces-init where the store may have more than is here: it waits or refuses."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from hookd import manifest, scan
from hookd.files import FileKey, Kind, data_key, index_key, namespace_key
from hookd.restore import claim
from hookd.restore.table import Here, There
from hookd.stores.base import Remote
from tests.conftest import Logs
from tests.fakes.audits import data_bytes, index_bytes
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    NS,
    files_of,
    fill,
    lose,
    mine,
    store_all,
    store_and_say,
    stored_by_us,
    wipe,
    zdb_at,
)

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]


async def _waits(found: Rig) -> str:
    """zdb is kept waiting: why."""
    with anyio.move_on_after(0.3) as scope:
        await found.survey.survey()
    assert scope.cancelled_caught
    return found.survey.why


# -- an older disk ---------------------------------------------------------------------------------


async def test_an_older_disk_with_the_store_away(tmp_path: Path) -> None:
    """Our journal tells that more was stored: zdb waits, and is refused once the store is back."""
    store = MemoryStore()
    zdb_at(tmp_path, rotations=1)
    then = tmp_path / "then"
    for root in ("index", "data"):
        shutil.copytree(tmp_path / root, then / root)
    wipe(tmp_path)
    await stored_by_us(tmp_path, store)
    stored = dict(store.content)
    for root in ("index", "data"):
        shutil.rmtree(tmp_path / root)
        shutil.copytree(then / root, tmp_path / root)
    async with rig(tmp_path, store, names=(NS,)) as found:
        store.down = "away"
        assert "i3 is in the store" in await _waits(found)
        store.down = None
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 1
        assert "--take local|remote" in found.held[NS]
    assert store.content == stored


# -- the descriptor --------------------------------------------------------------------------------


def descriptor(password: bytes = b"", flags: int = 0) -> bytes:
    """As zdb writes it (0-db libzdb/namespace.c)."""
    return struct.pack("<IBBQB", 1, len(NS), len(password), 0, flags) + NS.encode() + password


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("indexes", [True, False])
async def test_only_the_descriptor_is_lost(tmp_path: Path, down: bool, indexes: bool) -> None:
    """It has the password: it comes back before zdb makes a public one, or zdb waits."""
    zdb_at(tmp_path)
    path, store = tmp_path / "index" / NS / "zdb-namespace", MemoryStore()
    path.write_bytes(descriptor(b"secret"))
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.fence.guard()
        if indexes:
            await store_all(found)
        else:  # it was made, and nothing is closed yet
            await found.owe(namespace_key(NS), freeze=True)
            await found.empty()
        await found.fence.publish()
        before = files_of(tmp_path)
        path.unlink()
        if down:
            store.down = "away"
            assert "zdb-namespace is absent" in await _waits(found)
            assert not path.exists()
            store.down = None
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0, found.held
        assert found.survey.findings[NS].here is Here.NO_DESCRIPTOR
    assert files_of(tmp_path) == before


# -- a new journal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [["default"], ["default", "zdbfs-meta", "zdbfs-data"]])
async def test_blank_files_and_a_new_journal(tmp_path: Path, made: Sequence[str]) -> None:
    """The store is away and was never asked: blank files are no sign that there is nothing."""
    for name in made:
        SilentZdb.at(tmp_path).create(name)
    before, store = files_of(tmp_path), MemoryStore()
    store.down = "away"
    async with rig(tmp_path, store) as found:
        await _waits(found)
        assert files_of(tmp_path) == before
        store.down = None
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0


async def test_one_of_two_namespaces_and_a_new_journal(tmp_path: Path) -> None:
    """zdbfs-meta is whole, zdbfs-data is gone, the store is away: zdb does not make it anew, blank."""
    store = MemoryStore()
    async with rig(tmp_path, store, names=("zdbfs-meta", "zdbfs-data")) as found:
        found.index(0, index_bytes(0), ns="zdbfs-meta")
        found.data(0, data_bytes(0), ns="zdbfs-meta")
        found.descriptor(ns="zdbfs-meta")
        store.down = "away"
        assert "zdbfs-data" in await _waits(found)


async def test_files_without_a_descriptor_and_a_new_journal(tmp_path: Path) -> None:
    """The same of the descriptor alone: zdb would make a public one."""
    zdb_at(tmp_path)
    lose(tmp_path, "zdb-namespace")
    store = MemoryStore()
    store.down = "away"
    async with rig(tmp_path, store, names=(NS,)) as found:
        assert "descriptor is absent" in await _waits(found)


async def test_blank_files_of_a_store_that_is_known(tmp_path: Path) -> None:
    """A frontend whose journal has had the store is served at once, blank `default` and all."""
    SilentZdb.at(tmp_path).create("default")
    zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store) as found:
        await store_and_say(found)
    async with rig(tmp_path, store) as found:
        store.down = "away"
        with anyio.fail_after(5):
            assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0


# -- a store that lost what it had -----------------------------------------------------------------


async def test_a_wiped_store_and_a_lost_disk(tmp_path: Path) -> None:
    """The journal knows nine files, the store has none: it is not served blank."""
    store = await stored_by_us(tmp_path)
    good = dict(store.content), dict(store.records)
    wipe(tmp_path)
    store.content, store.records = {}, {}
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        assert found.survey.findings[NS].there is There.LOST
        assert "is it the right one?" in found.held[NS]
        assert store.records == {}, "no manifest names what is not there"
        store.content, store.records = good
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
    assert index_key(NS, 3) in files_of(tmp_path)


async def test_a_wiped_store_that_answers_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was not heard about is not withdrawn: zdb is served, and the fence asks again for all."""
    store = await stored_by_us(tmp_path)
    indexes = [key for key in store.content if key.kind is Kind.INDEX]
    store.records = {}
    for key in indexes:
        del store.content[key]
    left = set(store.content)
    monkeypatch.setattr(claim, "ANSWER_LIMIT_S", 0.05)
    stat = store.stat
    slow = True

    async def slowly(key: FileKey) -> Remote | None:
        if slow and key == data_key(NS, 1):  # of the middle ones only this question is about all
            await anyio.sleep(60)
        return await stat(key)

    store.stat = slowly  # type: ignore[method-assign]
    async with rig(tmp_path, store, names=(NS,)) as found:
        before = set(await found.ledger())
        with anyio.fail_after(10):
            assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        assert set(await found.ledger()) == before
        slow = False
        await found.fence.guard()
        assert set(await found.ledger()) == left
    assert set(manifest.decode(store.records[manifest.NAME]).files) == left


@pytest.mark.parametrize("late", [False, True])
async def test_a_wiped_store_and_complete_files(tmp_path: Path, logs: Logs, late: bool) -> None:
    """zdb is served, and no manifest names what the store has not, also not `late`, where it is away at
    the start. All is stored again, but for what is not here.
    """
    store = await stored_by_us(tmp_path)
    good = dict(store.content)
    lose(tmp_path, "d0")
    store.content, store.records = {}, {}
    published: list[set[FileKey]] = []
    put_record = store.put_record

    async def put_and_tell(name: str, content: bytes) -> None:
        if name == manifest.NAME:
            published.append(set(manifest.decode(content).files))
        await put_record(name, content)

    store.put_record = put_and_tell  # type: ignore[method-assign]
    async with rig(tmp_path, store, names=(NS,)) as found:
        if late:
            store.down = "away"
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        store.down = None
        if late:
            await found.fence.guard()
        assert published == [{data_key(NS, 0)}], "it is not here: the audit says whether it is lost"
        ledger = await found.ledger()
        assert set(ledger) == {data_key(NS, 0)}
        jobs = scan.unannounced(found.roots, ledger, found.scheduler, skip=(), with_active=True)
        await found.journal.add_jobs(jobs)
        found.dispatcher.enqueue(jobs)
        await found.empty()
        await found.fence.publish()
        assert published[-1] == set(good)
    assert store.content == {key: each for key, each in good.items() if key != data_key(NS, 0)}


async def test_a_wiped_store_and_the_word_to_begin_anew(tmp_path: Path) -> None:
    """`--take local` is the choice that the refusal names."""
    zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await store_and_say(found)
        wipe(tmp_path)
        store.content, store.records = {}, {}
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        await found.survey.choices.choose(NS, "local")
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0


@pytest.mark.parametrize("named", [True, False])
async def test_the_newest_index_is_lost_in_the_store(tmp_path: Path, named: bool) -> None:
    """Known from the ledger or from the manifest alone: what is left would be older, and is refused."""
    store = await stored_by_us(tmp_path)
    wipe(tmp_path)
    del store.content[index_key(NS, 3)]
    if named:
        for path in tmp_path.glob("journal.db*"):
            path.unlink()
    else:
        store.records.clear()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        assert "lacks i3" in found.held[NS]
    assert [key for key in mine(tmp_path) if key.kind is not Kind.NAMESPACE] == []


# -- snapshots that wait ---------------------------------------------------------------------------


async def _closed_while_away(found: Rig, last: int) -> None:
    """d0, i0 … are stored; the store goes away, and zdb closes with files `last` active."""
    await found.fence.guard()
    for number in range(last + 1):
        found.index(number, index_bytes(number), ns=NS)
        found.data(number, data_bytes(number), ns=NS)
    for number in range(last):
        await found.owe(data_key(NS, number), sealed=True)
        await found.owe(index_key(NS, number), freeze=True, needs=number)
    await found.empty()
    await found.fence.publish()
    found.store.down = "away"
    assert (await found.admit(found.closing(last, ns=NS))).code == 0


@pytest.mark.parametrize("last", [0, 3])
@pytest.mark.parametrize("sizes", [True, False])
async def test_snapshots_that_the_store_does_not_have_yet(
    tmp_path: Path, last: int, sizes: bool
) -> None:
    """A stop with the store away, then zdb's disk is lost: what waits comes back with what is stored."""
    store = MemoryStore()
    store.knows_sizes = sizes
    async with rig(tmp_path, store, names=(NS,)) as found:
        await _closed_while_away(found, last)
    before = files_of(tmp_path)
    wipe(tmp_path)
    store.down = None
    async with rig(tmp_path, store, names=(NS,), run=False, full=True) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0, found.held
        assert files_of(tmp_path) == before
        assert data_key(NS, last) not in await found.ledger(), "what waits is not stored"
        found.work()
        await found.empty()
    assert store.content == before


async def test_snapshots_of_which_a_part_is_lost(tmp_path: Path, logs: Logs) -> None:
    """The index waits, the data file it points into is lost: the choice is named, and works."""
    logs.allow("withdrawn", "given up")
    store = MemoryStore()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await _closed_while_away(found, 3)
    stored = dict(store.content)
    wipe(tmp_path)
    store.down = None
    async with rig(tmp_path, store, names=(NS,), run=False) as found:
        [job] = [job for job in found.scheduler if job.key == data_key(NS, 3)]
        await found.dispatcher.departures.withdraw(job, "skip")
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        assert "--take local|remote" in found.held[NS]
        assert mine(tmp_path) == {}
        await found.survey.choices.choose(NS, "remote")
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    assert index_key(NS, 2) in files_of(tmp_path)
    assert store.content == stored


async def test_snapshots_of_a_frontend_that_lost_the_store(tmp_path: Path, logs: Logs) -> None:
    """They are another history's now: what is stored comes back, not what waits here."""
    logs.allow("withdrawn", "kept")
    store = MemoryStore()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await _closed_while_away(found, 0)
    wipe(tmp_path)
    store.down = None
    (tmp_path / "other").mkdir()
    zdb_at(tmp_path / "other")
    newest = files_of(tmp_path / "other")
    store.content.clear()
    fill(store, newest, named=True)
    async with rig(tmp_path, store, names=(NS,), run=False, full=True) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0, found.held
    assert mine(tmp_path) == newest


# -- data files of which the indexes are lost ------------------------------------------------------


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("knows", [True, False])
async def test_the_index_disk_is_lost(
    tmp_path: Path, sizes: bool, named: bool, knows: bool
) -> None:
    """Data files that are here are kept only if they are those that are stored."""
    store = MemoryStore()
    store.knows_sizes = sizes
    await stored_by_us(tmp_path, store, rotations=1)
    newest = files_of(tmp_path)
    if not knows:
        for path in tmp_path.glob("journal.db*"):
            path.unlink()
    if not named:
        store.records.clear()
    shutil.rmtree(tmp_path / "index")
    path = tmp_path / str(data_key(NS, 0))
    path.write_bytes(newest[data_key(NS, 0)][:-3] + b"???")
    before = files_of(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        assert "d0 has other content" in found.held[NS]
        assert "--take local|remote" in found.held[NS]
        assert files_of(tmp_path) == before
        path.write_bytes(newest[data_key(NS, 0)])
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0, found.held
    assert files_of(tmp_path) == newest
