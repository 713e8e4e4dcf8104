"""An administrator's --take: followed once, nothing of what is given up is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from hookd import manifest
from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal import tables
from hookd.restore import remote
from hookd.restore.local import WORK, Local
from hookd.restore.offline import _meant
from hookd.restore.restorer import Restorer
from hookd.restore.table import Here
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    NS,
    files_of,
    fill,
    lose,
    mine,
    put_here,
    store_all,
    wipe,
    zdb_and_store,
    zdb_at,
)

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]


async def test_take_remote(tmp_path: Path) -> None:
    """What is here is set aside, not removed, and what is stored comes back."""
    newest, store = zdb_and_store(tmp_path)
    put_here(tmp_path, Here.FOREIGN, {})
    mine = files_of(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        await found.survey.choices.choose(NS, "remote")
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert found.survey.choices.takes == {}
    for key, content in files_of(tmp_path).items():
        assert newest[key] == content
    kept = [p.read_bytes() for p in tmp_path.glob(f"*/{NS}/.hookd-aside-*/*")]
    assert sorted(kept) == sorted(mine.values())


async def test_take_local(tmp_path: Path) -> None:
    """What is here is served and stored over what is there."""
    _, store = zdb_and_store(tmp_path)
    put_here(tmp_path, Here.FOREIGN, {})
    mine = files_of(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        await found.survey.judge()
        await found.survey.choices.choose(NS, "local")
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert files_of(tmp_path) == mine
        await found.owe(data_key(NS, 0), sealed=True)
        await found.empty()
        assert store.content[data_key(NS, 0)] == mine[data_key(NS, 0)]


async def test_nothing_to_take(tmp_path: Path) -> None:
    """The store has nothing of it: what is here stays where it is, and is served."""
    zdb_at(tmp_path)
    before = files_of(tmp_path)
    async with rig(tmp_path, MemoryStore()) as found:
        found.survey.choices.takes["*"] = "remote"
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
    assert files_of(tmp_path) == before
    assert list(tmp_path.glob(f"*/{NS}/.hookd-aside-*")) == []


@pytest.mark.parametrize("take", ["local", "remote"])
async def test_kept_until_the_store_can_be_read(tmp_path: Path, take: str) -> None:
    """Chosen while the store is away: nothing is moved, over a restart too, and then it is followed."""
    _, store = zdb_and_store(tmp_path)
    put_here(tmp_path, Here.FOREIGN, {})
    mine = files_of(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        await found.survey.choices.choose(NS, take)
        store.down = "away"
        with anyio.move_on_after(0.3) as scope:
            await found.survey.survey()
        # what is here would be written to, and set aside later
        assert scope.cancelled_caught is (take == "remote")
        assert files_of(tmp_path) == mine
        assert found.survey.choices.takes == {NS: take}
        kept = tables.get_meta(found.journal._db)["takes"]
    store.down = None
    assert kept == {NS: take}
    async with rig(tmp_path, store) as found:
        found.survey.choices.takes.update({NS: take})  # as a daemon reads it at its start
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        assert found.survey.choices.takes == {}
        assert "takes" not in tables.get_meta(found.journal._db)
    assert (files_of(tmp_path) == mine) is (take == "local")


async def test_remote_is_waited_for_and_withdrawn(tmp_path: Path) -> None:
    """Complete files are not served while what is stored was chosen, unless that is withdrawn."""
    zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    fill(store, newest, named=True)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        await found.survey.judge()
        await found.survey.choices.choose("*", "remote")
        store.down = "away"
        async with anyio.create_task_group() as group:
            group.start_soon(found.survey.survey)
            await found.eventually(lambda: found.survey.waiting is not None)
            assert "--take local|remote` decides" in (found.survey.waiting or "")
            await found.survey.choices.choose(NS, "local")
        assert (await found.survey.judge()).code == 0
    assert files_of(tmp_path) == newest


async def test_local_files_with_a_gap_are_not_taken(tmp_path: Path) -> None:
    """What the store lacks refused a restore: half a namespace is not served, nor the store given up."""
    newest, store = zdb_and_store(tmp_path)
    del store.content[data_key(NS, 1)]
    lose(tmp_path, "i1", "d1")
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1
        assert (tmp_path / "index" / NS / WORK).exists()
        await found.survey.choices.choose(NS, "local")
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 1
        assert "i1 is absent" in answer.text
        assert await found.journal.retired() == {}
        assert set(manifest.decode(store.records[manifest.NAME]).files) == set(newest)
        store.content[data_key(NS, 1)] = newest[data_key(NS, 1)]
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    assert files_of(tmp_path)[index_key(NS, 1)] == newest[index_key(NS, 1)]


async def test_local_files_beside_an_interrupted_restore(tmp_path: Path) -> None:
    """They are whole: taken, and what was fetched is forgotten, or the restore would go on."""
    newest, store = zdb_and_store(tmp_path)
    (tmp_path / "index" / NS / WORK).mkdir()
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.choices.choose(NS, "local")
        for _ in range(2):
            await found.survey.survey()
            assert (await found.survey.judge()).code == 0, found.held
        assert not (tmp_path / "index" / NS / WORK).exists()
    assert files_of(tmp_path) == newest


async def kept(found: Rig) -> dict[str, str]:
    """What the next start reads."""
    takes = tables.get_meta(found.journal._db).get("takes")
    assert takes is None or isinstance(takes, dict)
    return dict(takes or {})


@pytest.mark.parametrize("earlier", [NS, "*"])
@pytest.mark.parametrize("now", [NS, "*"])
async def test_withdrawn_by_a_later_one(tmp_path: Path, earlier: str, now: str) -> None:
    """Remote was chosen for zdb's next start, then local at once: the next start moves nothing."""
    zdb_at(tmp_path)
    async with rig(tmp_path, MemoryStore()) as found:
        await found.fence.guard()
        await store_all(found)
        await found.fence.publish()
        await found.survey.choices.choose(earlier, "remote")
        await found.survey.claim.take_local_now(now)
        await store_all(found)
        await found.fence.publish()
        assert found.survey.choices.of(NS) is None
        others = "remote" if (earlier, now) == ("*", NS) else None
        assert found.survey.choices.of("other") == others
        takes = await kept(found)
        assert takes == found.survey.choices.takes
    with (tmp_path / "data" / NS / "d3").open("ab") as newest:
        newest.write(b"written since")
    before = files_of(tmp_path)
    async with rig(tmp_path, found.store) as again:
        again.survey.choices.takes.update(takes)  # as a daemon reads it at its start
        assert (await again.survey.survey()).code == 0
        assert (await again.survey.judge()).code == 0
        assert files_of(tmp_path) == before
        assert await kept(again) == {}


async def test_a_later_one_for_all_is_meant_for_each(tmp_path: Path) -> None:
    """An earlier choice for one namespace does not outlive one for all of them."""
    async with rig(tmp_path, MemoryStore()) as found:
        choices = found.survey.choices
        await choices.choose(NS, "local")
        await choices.choose("*", "remote")
        assert choices.of(NS) == "remote"
        await choices.choose(NS, "local")
        assert (choices.of(NS), choices.of("other")) == ("local", "remote")
        assert await kept(found) == choices.takes


async def test_what_is_given_up_here_is_not_adopted_for_another(tmp_path: Path) -> None:
    """Local for one namespace, and another one comes back from the store beside it."""
    zdb = zdb_at(tmp_path)
    zdb.create("zz")
    store = MemoryStore()
    fill(store, files_of(tmp_path), named=True, writer="other")
    shutil.rmtree(tmp_path / "index" / "zz")
    shutil.rmtree(tmp_path / "data" / "zz")
    async with rig(tmp_path, store) as found:
        await found.survey.choices.choose(NS, "local")
        await found.survey.survey()
        assert {key.namespace for key in await found.ledger()} == {"zz"}


async def fill_and_lose(folder: Path, store: MemoryStore, *, stored: tuple[str, ...] = ()) -> None:
    """All is stored; then what is here is chosen, some of it stored again, and the disk is lost."""
    zdb = zdb_at(folder)
    async with rig(folder, store, names=(NS,)) as found:
        await found.fence.guard()
        await store_all(found)
        await found.fence.publish()
        zdb.set(NS, b"new", b"only here")  # another history of the active files
        assert await found.survey.claim.take_local_now("*") == [NS]
        for name in stored:
            key = FileKey.parse(f"{'data' if name[0] == 'd' else 'index'}/{NS}/{name}")
            await found.owe(key, sealed=key.kind is Kind.DATA and key.number < 3, freeze=True)
        await found.empty()
        await found.fence.publish()
    wipe(folder)


def forget(folder: Path) -> None:
    """The journal is lost, too: a new machine."""
    for path in folder.glob("journal.db*"):
        path.unlink()


@pytest.mark.parametrize("machine", ["new", "same"])
@pytest.mark.parametrize("blank", [False, True])
async def test_given_up_is_not_lost(tmp_path: Path, machine: str, blank: bool) -> None:
    """Nothing is served in silence where the only whole is what was given up; it can be taken back."""
    store = MemoryStore()
    await fill_and_lose(tmp_path, store)
    before = {key: content for key, content in store.content.items() if key.namespace == NS}
    if machine == "new":
        forget(tmp_path)
    for _ in range(2):  # zdb may have made blank files after the first
        async with rig(tmp_path, store, names=(NS,)) as found:
            await found.survey.survey()
            answer = await found.survey.judge()
            assert answer.code == 1
            assert "--take remote` brings back what was given up" in answer.text
        if blank:
            SilentZdb.at(tmp_path).create(NS)
    async with rig(tmp_path, store, names=(NS,), full=True) as found:
        await found.survey.choices.choose(NS, "remote")
        await found.survey.survey()
        answer = await found.survey.judge()
        assert answer.code == 0, answer.text
        assert mine(tmp_path) == before
        made = manifest.decode(store.records[manifest.NAME])
        assert set(made.files) == set(before)
        assert (made.given_up, made.deleted) == ({}, ())


@pytest.mark.parametrize("machine", ["new", "same"])
async def test_beginning_anew_is_asked_for_once(tmp_path: Path, machine: str) -> None:
    """Who chose to begin with nothing is not asked again on this machine; on another one, yes."""
    store = MemoryStore()
    await fill_and_lose(tmp_path, store)
    if machine == "new":
        forget(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.choices.choose(NS, "local")
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
    for made in (False, True):
        if made:
            SilentZdb.at(tmp_path).create(NS)
        async with rig(tmp_path, store, names=(NS,)) as found:
            await found.survey.survey()
            assert (await found.survey.judge()).code == 0
            await found.fence.publish()
    wipe(tmp_path)
    forget(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 1


@pytest.mark.parametrize("machine", ["new", "same"])
async def test_given_up_and_partly_stored_over(tmp_path: Path, machine: str) -> None:
    """A data file of what was chosen lies over one that was given up: no mixture of both is restored."""
    store = MemoryStore()
    await fill_and_lose(tmp_path, store, stored=("d3",))
    if machine == "new":
        forget(tmp_path)
    for take in (None, "remote"):
        async with rig(tmp_path, store, names=(NS,), full=True) as found:
            if take is not None:
                await found.survey.choices.choose(NS, take)
            await found.survey.survey()
            answer = await found.survey.judge()
            assert answer.code == 1
            assert ("brings back" in answer.text) is (take is None)
            assert not any(key.kind is Kind.INDEX for key in mine(tmp_path))


@pytest.mark.parametrize("machine", ["new", "same"])
async def test_the_new_history_counts_once_it_is_stored(tmp_path: Path, machine: str) -> None:
    """With all of what was chosen in the store, a lost disk comes back as that."""
    store = MemoryStore()
    names = ("d0", "d1", "d2", "d3", "i3", "i2", "i1", "i0", "zdb-namespace")
    await fill_and_lose(tmp_path, store, stored=names)
    if machine == "new":
        forget(tmp_path)
    assert manifest.decode(store.records[manifest.NAME]).given_up == {}
    async with rig(tmp_path, store, names=(NS,), full=True) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        assert b"only here" in found.live(data_key(NS, 3))


async def test_what_another_frontend_stored_last_is_given_up(tmp_path: Path) -> None:
    """Its manifest is behind what it stored: what can be taken back is what it stored."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    store = MemoryStore()
    zdb = zdb_at(tmp_path / "a")
    async with rig(tmp_path / "a", store, names=(NS,)) as one:
        await one.fence.guard()
        await store_all(one)
        await one.fence.publish()
        async with rig(tmp_path / "b", store, names=(NS,), full=True) as two:
            await two.survey.survey()
            assert (await two.survey.judge()).code == 0
            other = SilentZdb.at(tmp_path / "b", seed=7)
            assert other.start() == 0
            other.churn(NS, 4)
            other.rotate(NS)
            other.kill()
            await store_all(two)
            newest = mine(tmp_path / "b")
        zdb.churn(NS, 2)
        await one.survey.claim.take_local_now(NS)
    wipe(tmp_path / "a")
    async with rig(tmp_path / "a", store, names=(NS,), full=True) as one:
        await one.survey.choices.choose(NS, "remote")
        await one.survey.survey()
        answer = await one.survey.judge()
        assert answer.code == 0, answer.text
        assert mine(tmp_path / "a") == newest


async def test_given_up_into_a_folder(tmp_path: Path) -> None:
    """`hookd restore --to` shows what was given up, where nothing else is whole."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    store = MemoryStore()
    await fill_and_lose(here, store)
    found = manifest.decode(store.records[manifest.NAME])
    meant, only = _meant(found, NS)
    seen = await remote.look(store, NS, meant, only=only)
    assert seen.replaced is None
    restorer = Restorer(store=store, roots=Roots(there / "index", there / "data"), full=True)
    await restorer.restore(Local(NS), seen, meant)
    assert mine(there) == {k: v for k, v in store.content.items() if k.namespace == NS}
