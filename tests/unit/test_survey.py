"""namespaces-init and ready: the whole table, cell by cell, on files of a (fake) zdb."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import anyio
import pytest

from hookd import manifest
from hookd.digest import digest_of
from hookd.errors import StoreTemporary
from hookd.fence import Fenced
from hookd.files import FileKey, Kind, data_key, index_key, namespace_key
from hookd.identity import Identity
from hookd.journal import LedgerEntry
from hookd.restore import survey as survey_stage
from hookd.restore import table
from hookd.restore.local import WORK
from hookd.restore.table import Decision, Here, There
from hookd.stores.base import Remote
from hookd.wire import ANSWER_SPOOL
from tests.conftest import Logs
from tests.fakes.audits import audit, data_bytes, index_bytes
from tests.fakes.rig import rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    NS,
    entries_of,
    files_of,
    fill,
    mine,
    put_here,
    store_all,
    wipe,
    zdb_and_store,
    zdb_at,
)
from tests.fakes.zdb_files import answers

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]


UNREAD = (There.UNREACHABLE, There.BLIND)


def _cells() -> list[tuple[Here, There, bool, bool]]:
    """(here, there, whether the journal knows the files, whether the store knows lengths)."""
    cells = []
    for here, there, knows, sizes in itertools.product(Here, There, (False, True), (True, False)):
        if there is (There.EMPTY if knows else There.LOST):
            continue  # what was stored and is not there is lost
        if here is Here.FOREIGN and knows:
            continue  # our own journal is of our own lineage; for another's disk it knows lengths only
        if not sizes and there not in (There.MANIFEST, There.FILES):
            continue  # nothing is there to tell a length of
        cells.append((here, there, knows, sizes))
    return cells


@pytest.mark.parametrize(("here", "there", "knows", "sizes"), _cells())
async def test_cell(tmp_path: Path, here: Here, there: There, knows: bool, sizes: bool) -> None:
    """Each cell does what the table says, and harms nothing; with a journal that is new or knows the
    files, over a store that tells lengths or does not.
    """
    folder, store = tmp_path, MemoryStore()
    store.knows_sizes, store.lists = sizes, sizes
    (folder / "then").mkdir()
    zdb = zdb_at(folder)
    newest = files_of(folder)
    zdb_at(folder / "then", rotations=2)
    older = files_of(folder / "then")
    shutil.rmtree(folder / "then")
    proven_empty = there in (There.EMPTY, There.LOST)
    fill(store, {} if proven_empty else newest, named=there is There.MANIFEST)
    put_here(folder, here, older)
    before = files_of(folder)
    if there in UNREAD and not knows and here in (Here.OLDER, Here.FOREIGN):
        here = Here.COMPLETE  # nothing tells; it is compared before anything is stored
    async with rig(folder, store, names=(NS,), patience_s=0.05) as found:
        if knows:
            await found.journal.adopt(entries_of(newest))
            seen = store.records.get(manifest.NAME, b"another")
            found.fence.identity = Identity("l", "w", 7, digest_of(seen).hex())
        if there is There.UNREACHABLE:
            store.down = "away"
        if there is There.BLIND:
            store.content.clear()
            store.blind = True
        decision = table.decide(here, there)
        if decision is Decision.WAIT:
            with anyio.move_on_after(0.3) as scope:
                await found.survey.survey()
            assert scope.cancelled_caught
            assert files_of(folder) == before
            # it goes on by itself
            store.down, store.blind = None, False
            fill(store, newest, named=True)
            with anyio.fail_after(10):
                assert (await found.survey.survey()).code == 0
            refused = here is Here.OLDER
            assert (await found.survey.judge()).code == refused
            assert (files_of(folder) == before) is refused
            return
        with anyio.fail_after(10):
            assert (await found.survey.survey()).code == 0
        after = files_of(folder)
        assert {key: after[key] for key in before} == before, "what was here was touched"
        ready = await found.survey.judge()
        if decision is Decision.REFUSE:
            assert ready.code == 1
            assert NS in ready.text
            assert NS in found.held
            assert after == before
            return
        assert ready.code == 0, ready.text
        assert found.held == {}
        if decision is Decision.RESTORE:
            assert not (folder / "index" / NS / WORK).exists()
            for key, content in after.items():
                assert newest[key] == content
            kept = {k for k in newest if k.kind is not Kind.DATA} | {data_key(NS, 3)}
            assert kept <= set(after)
            for number in range(3):  # the rest as missing-data brings it
                path = found.roots.path(data_key(NS, number))
                assert (await found.retriever.retrieve(data_key(NS, number))).code == 0
                assert path.exists()
            told = answers(folder / "index", folder / "data")
            assert told[NS] == zdb.truth[NS]
        else:
            assert after == before


async def test_the_docs_table() -> None:
    """The table of the module's text is the table of the code."""
    rows = [line for line in (table.__doc__ or "").splitlines() if line.startswith("|")][2:]
    told = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    for here, row in zip(Here, told, strict=True):
        assert [table.decide(here, there).value for there in There] == row[1:], here


async def test_full(tmp_path: Path) -> None:
    """With `restore.full` every data file is here before zdb starts."""
    zdb = zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    fill(store, newest, named=True)
    wipe(tmp_path)
    async with rig(tmp_path, store, full=True) as found:
        assert (await found.survey.survey()).code == 0
    assert files_of(tmp_path) == newest
    assert answers(tmp_path / "index", tmp_path / "data")[NS] == zdb.truth[NS]


async def test_a_blank_namespace_of_zdb_is_replaced(tmp_path: Path) -> None:
    """What zdb makes where it finds none is no reason to serve blank."""
    zdb = zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    fill(store, newest, named=True)
    wipe(tmp_path)
    SilentZdb.at(tmp_path).create(NS)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        for number in range(3):
            await found.retriever.retrieve(data_key(NS, number))
    assert answers(tmp_path / "index", tmp_path / "data")[NS] == zdb.truth[NS]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("no i1", "lacks i1"),
        ("no d1", "d1 is neither here nor in the store"),
        ("short d3", "index entries point up to byte"),
        ("short d1", "index entries point up to byte"),
        ("other d1", "other content than the manifest names"),
        ("bad i2", "without an index header"),
        ("no index", "index"),
    ],
)
async def test_an_inconsistent_store(tmp_path: Path, spoil: str, said: str) -> None:
    """What does not fit together is not placed: refused, with the reason."""
    zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    match spoil:
        case "no i1":
            del newest[index_key(NS, 1)]
        case "no d1":
            del newest[data_key(NS, 1)]
        case "short d3":
            newest[data_key(NS, 3)] = newest[data_key(NS, 3)][:40]
        case "bad i2":
            newest[index_key(NS, 2)] = b"garbage"
        case "no index":
            for number in range(4):
                del newest[index_key(NS, number)]
            newest[index_key(NS, 0)] = b""
    fill(store, newest, named=True)
    if spoil == "other d1":
        store.content[data_key(NS, 1)] = newest[data_key(NS, 1)][:-1] + b"?"
    if spoil == "short d1":
        store.content[data_key(NS, 1)] = newest[data_key(NS, 1)][:40]
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        ready = await found.survey.judge()
        assert ready.code == 1
        assert said in ready.text
        assert "bring the right file back into the store" in ready.text
        assert "`hookd restore ns --take local` begins anew, blank" in ready.text
    assert [key for key in files_of(tmp_path) if key.kind is not Kind.NAMESPACE] == []


@pytest.mark.parametrize("fault", ["wrong", "cut"])
@pytest.mark.parametrize("key", [index_key(NS, 2), data_key(NS, 3), namespace_key(NS)], ids=str)
async def test_other_bytes(tmp_path: Path, key: FileKey, fault: str) -> None:
    """A store that gives other bytes than it checks, or not all, keeps zdb waiting; then it goes on."""
    _, store = zdb_and_store(tmp_path)
    wipe(tmp_path)
    getattr(store, fault).add(key)
    async with rig(tmp_path, store) as found, anyio.create_task_group() as group:
        group.start_soon(found.survey.survey)
        await found.eventually(lambda: found.survey.waiting is not None)
        assert key.name in (found.survey.waiting or "")
        assert files_of(tmp_path) == {}, "nothing is placed before all is proven"
        getattr(store, fault).clear()
        await found.eventually(lambda: not found.survey.running)
        assert (await found.survey.judge()).code == 0


async def test_a_slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up zdb where something is missing, and not where nothing is; nothing is stored unseen."""
    monkeypatch.setattr(survey_stage, "PATIENCE_S", 0.05)
    monkeypatch.setattr(survey_stage, "CALL_LIMIT_S", 0.05)
    _, store = zdb_and_store(tmp_path)
    store.hang = {"stat-record"}
    async with rig(tmp_path, store, names=(NS,)) as found:
        with anyio.fail_after(5):
            assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        assert {each.there for each in found.survey.findings.values()} == {There.UNREACHABLE}
        assert store.puts == []
    wipe(tmp_path)
    (tmp_path / "journal.db").unlink()
    async with rig(tmp_path, store, names=(NS,)) as found, anyio.create_task_group() as group:
        group.start_soon(found.survey.survey)
        await found.eventually(lambda: found.survey.waiting is not None)
        assert "does not answer within 0.05 s" in (found.survey.waiting or "")
        assert files_of(tmp_path) == {}
        monkeypatch.setattr(survey_stage, "CALL_LIMIT_S", 5.0)
        store.hang.clear()
        await found.eventually(lambda: not found.survey.running)
        assert (await found.survey.judge()).code == 0
    assert (tmp_path / "index" / NS / "i3").exists()


async def test_an_older_manifest_of_ours(tmp_path: Path) -> None:
    """The store was put back to last week: what is here is served, and all of it stored again."""
    zdb = zdb_at(tmp_path)
    store = MemoryStore(concurrency=4)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        await store_all(found)
        await found.fence.publish()
        old = dict(store.content), dict(store.records)
        zdb.churn(NS, 6)
        zdb.rotate(NS)
        zdb.churn(NS, 6)
        await store_all(found)
        await found.fence.publish()
    store.content, store.records = old
    async with rig(tmp_path, store) as found:
        before = files_of(tmp_path)
        assert (await found.survey.survey()).code == 0
        ready = await found.survey.judge()
        assert ready.code == 0, ready.text
        assert files_of(tmp_path) == before
        await audit(found)
        await found.empty()
        assert store.content == before


async def test_absent_in_the_middle(tmp_path: Path) -> None:
    """A manifest names a file that the store has lost: refused, and named; back there, it is restored."""
    newest, store = zdb_and_store(tmp_path)
    del store.content[data_key(NS, 1)]
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert "d1" in (await found.survey.judge()).text
        assert "d1 is neither here nor in the store" in found.held[NS]
        SilentZdb.at(tmp_path).create(NS)  # zdb has made blank files, and stopped
        store.content[data_key(NS, 1)] = newest[data_key(NS, 1)]
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        assert found.held == {}
    assert files_of(tmp_path)[index_key(NS, 3)] == newest[index_key(NS, 3)]


@pytest.mark.parametrize("bad", [b"garbage", b"{}", b"", b'{"hookd": 1}'])
async def test_a_manifest_that_is_none(tmp_path: Path, bad: bytes) -> None:
    """The files are restored without it."""
    _, store = zdb_and_store(tmp_path, named=False)
    store.records[manifest.NAME] = bad
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert manifest.decode(store.records[manifest.NAME]).files


@pytest.mark.parametrize("damage", ["cut", "garbage"])
async def test_a_damaged_manifest_of_a_namespace_made_again(
    tmp_path: Path, damage: str, logs: Logs
) -> None:
    """Its copy says which files are of the one that was deleted: the two are not restored as one."""
    logs.allow("the manifest is damaged, its copy is used")
    store = MemoryStore()
    (tmp_path / "a").mkdir()
    async with rig(tmp_path / "a", store, names=(NS,)) as found:
        for number in range(4):
            found.index(number, index_bytes(number), ns=NS)
            found.data(number, data_bytes(number), ns=NS)
        await store_all(found)
        await found.fence.publish()
        assert manifest.COPY not in store.records
        await found.dispatcher.departures.disown(NS, "zdb deleted the namespace", retire=True)
        found.fence.changed()
        wipe(tmp_path / "a")
        for number in range(2):
            found.index(number, index_bytes(number, values=2), ns=NS)
            found.data(number, data_bytes(number, 2), ns=NS)
        await store_all(found)
        await found.fence.publish()
        newest = mine(tmp_path / "a")
        good = store.records[manifest.NAME]
        assert store.records[manifest.COPY] == good
    store.records[manifest.NAME] = good[:-40] if damage == "cut" else b"garbage"
    (tmp_path / "b").mkdir()
    async with rig(tmp_path / "b", store, names=(NS,), full=True) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert mine(tmp_path / "b") == newest
        made = manifest.decode(store.records[manifest.NAME])
        assert set(made.stale) == {make(NS, n) for make in (index_key, data_key) for n in (2, 3)}
        assert store.records[manifest.COPY] == store.records[manifest.NAME]


@pytest.mark.parametrize("what", ["index", "data"])
async def test_a_store_that_begins_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A zstor that found nothing is started anew before it has to prove that it sees: not believed."""
    newest, store = zdb_and_store(tmp_path, named=False)
    wipe(tmp_path)
    missed = index_key(NS, 2) if what == "index" else data_key(NS, 3)
    stat, blind = store.stat, True
    prove = store.prove_absence

    async def sees_later(key: FileKey) -> Remote | None:
        return None if blind and key == missed else await stat(key)

    async def started_anew() -> None:
        nonlocal blind
        blind = blind and missed not in asked
        await prove()

    asked: list[FileKey] = []

    async def noted(key: FileKey) -> Remote | None:
        asked.append(key)
        return await sees_later(key)

    monkeypatch.setattr(store, "stat", noted)
    monkeypatch.setattr(store, "prove_absence", started_anew)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    here = files_of(tmp_path)
    assert {key for key in newest if key.kind is Kind.INDEX} <= here.keys()
    assert data_key(NS, 3) in here


async def test_a_manifest_from_the_future(tmp_path: Path) -> None:
    """Nothing is restored by guessing, and nothing stored over it; complete files are served."""
    _, store = zdb_and_store(tmp_path, named=False)
    store.records[manifest.NAME] = b'{"hookd": 99}'
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        with pytest.raises(Fenced, match="newer hookd"):
            await found.fence.guard()
    wipe(tmp_path)
    (tmp_path / "journal.db").unlink()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 1
        assert "newer hookd" in answer.text


async def test_a_rolled_back_disk(tmp_path: Path) -> None:
    """Journal and files are those of last week, the manifest is ours and newer: somebody must decide."""
    zdb = zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        await found.journal.adopt([])
    old = tmp_path / "old"
    old.mkdir()
    for name in ("index", "data"):
        shutil.copytree(tmp_path / name, old / name)
    shutil.copy(tmp_path / "journal.db", old / "journal.db")
    zdb.churn(NS, 6)
    zdb.rotate(NS)
    zdb.churn(NS, 2)
    async with rig(tmp_path, store) as found:
        newest = files_of(tmp_path)
        store.content.update(newest)
        await found.journal.adopt(
            [
                LedgerEntry(
                    key=k, size_bytes=len(c), digest=digest_of(c), stored_at=1.0, sealed=False
                )
                for k, c in newest.items()
            ]
        )
        await found.fence.guard()
        await found.fence.publish()
    async with rig(old, store) as found:
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 1
        assert "i4 is in the store" in answer.text


async def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk keeps zdb waiting; with room again the restore goes on."""
    _, store = zdb_and_store(tmp_path)
    wipe(tmp_path)
    room = False
    get = store.get

    async def full(key: FileKey, target: Path) -> None:
        if not room and key == index_key(NS, 2):
            raise OSError(28, "No space left on device")
        await get(key, target)

    monkeypatch.setattr(store, "get", full)
    async with rig(tmp_path, store) as found, anyio.create_task_group() as group:
        group.start_soon(found.survey.survey)
        await found.eventually(lambda: "No space left" in (found.survey.waiting or ""))
        assert not (tmp_path / "index" / NS / "i0").exists()
        room = True
        await found.eventually(lambda: not found.survey.running)
        assert (await found.survey.judge()).code == 0


async def test_stop_during_a_wait(tmp_path: Path) -> None:
    """The shim is told to come again, not that all is well."""
    store = MemoryStore()
    store.down = "away"
    async with rig(tmp_path, store, names=(NS,)) as found:
        found.survey.stopping = lambda: True
        assert (await found.survey.survey()).code == ANSWER_SPOOL


async def test_ready_before_the_restore_is_whole(tmp_path: Path) -> None:
    """The shim of namespaces-init was killed: zdb goes on, and is refused."""
    store = MemoryStore()
    store.down = "away"
    async with rig(tmp_path, store, names=(NS,)) as found, anyio.create_task_group() as group:
        group.start_soon(found.survey.survey)
        await found.eventually(lambda: found.survey.waiting is not None)
        answer = await found.survey.judge()
        assert answer.code == 1
        assert "did not wait" in answer.text
        group.cancel_scope.cancel()


async def test_zdb_makes_files_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not wait: what it made is seen, refused, and replaced at its next start."""
    zdb = zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    fill(store, newest, named=True)
    wipe(tmp_path)
    get = store.get

    async def meddled(key: FileKey, target: Path) -> None:
        await get(key, target)
        if key == data_key(NS, 3):
            SilentZdb.at(tmp_path).create(NS)

    monkeypatch.setattr(store, "get", meddled)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 1
        assert "did not wait" in answer.text
        monkeypatch.setattr(store, "get", get)
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        for number in range(3):
            await found.retriever.retrieve(data_key(NS, number))
    assert answers(tmp_path / "index", tmp_path / "data")[NS] == zdb.truth[NS]


async def test_deleted_namespaces_do_not_come_back(tmp_path: Path) -> None:
    """zdb deleted it: its files are in the store, the manifest says whose they are not."""
    _, store = zdb_and_store(tmp_path, named=False)
    made = manifest.build([], lineage="l", writer="w", sequence=3, deleted=[NS])
    store.records[manifest.NAME] = manifest.encode(made)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    assert files_of(tmp_path) == {}


async def test_a_password_comes_back_first(tmp_path: Path) -> None:
    """The descriptor is in place before i0 is: zdb never sees the namespace without it."""
    zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    newest[namespace_key(NS)] = b"with a password"
    fill(store, newest, named=True)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
    assert (tmp_path / "index" / NS / "zdb-namespace").read_bytes() == b"with a password"


@pytest.mark.parametrize("named", [True, False])
async def test_only_a_descriptor(tmp_path: Path, named: bool) -> None:
    """A namespace that was made and never stored a file: its password comes back, the others do too."""
    zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    newest[namespace_key("new")] = b"with a password"
    fill(store, newest, named=named)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        for _ in range(2):
            await found.survey.survey()
            assert (await found.survey.judge()).code == 0
            SilentZdb.at(tmp_path).create("new")
    assert (tmp_path / "index/new/zdb-namespace").read_bytes() == b"with a password"
    assert not (tmp_path / "index/new" / WORK).exists()
    assert (tmp_path / "index" / NS / "i3").exists()


async def test_many_index_files(tmp_path: Path) -> None:
    """1,000 of them, and no manifest to tell how many."""
    zdb = SilentZdb.at(tmp_path, datasize=300)
    zdb.create(NS)
    while zdb._namespaces[NS].active < 999:
        zdb.set(NS, b"key-%d" % len(zdb.truth.get(NS, {})), b"x" * 280)
    newest, store = files_of(tmp_path), MemoryStore()
    fill(store, newest, named=False)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    assert len(list((tmp_path / "index" / NS).glob("i*"))) == 1000
    for number in range(999):  # what missing-data would bring
        (tmp_path / f"data/{NS}/d{number}").write_bytes(newest[data_key(NS, number)])
    assert answers(tmp_path / "index", tmp_path / "data")[NS] == zdb.truth[NS]


async def test_snapshots_on_their_way_are_newer(tmp_path: Path) -> None:
    """The index folder is lost, the staging folder is not: what waits there comes back."""
    zdb = zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        for key in files_of(tmp_path):
            if key.kind is Kind.DATA:
                await found.owe(key, sealed=key.number < 3, freeze=key.number == 3)
        await found.empty()
        for number in range(4):
            await found.owe(index_key(NS, number), freeze=True, needs=3)
        await found.empty()
        store.refuse[index_key(NS, 1)] = StoreTemporary("put", "i1", "not now")
        zdb.set(NS, next(iter(zdb.truth[NS])), b"changed")
        closing = found.closing(3, "0 1 2", ns=NS)
        await found.admit(closing)
        with anyio.fail_after(5):
            await found.until(lambda: len(found.scheduler) <= 2)
        shutil.rmtree(tmp_path / "index" / NS)
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        newest = answers(tmp_path / "index", tmp_path / "data")[NS]
        assert newest == zdb.truth[NS]
