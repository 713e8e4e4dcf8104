"""What a store has and no manifest names (hook.sh) comes back, and nothing is stored over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hookd import manifest
from hookd.errors import StoreTemporary
from hookd.files import FileKey, data_key
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import NS, files_of, fill, store_all, zdb_at

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]

OTHER = "bbb"


def two_namespaces(folder: Path) -> MemoryStore:
    """The store has all of both, with no manifest; OTHER is lost here."""
    zdb = zdb_at(folder)
    zdb.create(OTHER)
    zdb.churn(OTHER, 6)
    zdb.rotate(OTHER)
    store = MemoryStore()
    fill(store, files_of(folder), named=False)
    for root in ("index", "data"):
        shutil.rmtree(folder / root / OTHER)
    return store


def of_other(store: MemoryStore) -> dict[FileKey, bytes]:
    """What the store has of it."""
    return {key: each for key, each in store.content.items() if key.namespace == OTHER}


async def start_and_check(found: Rig, store: MemoryStore, before: dict[FileKey, bytes]) -> None:
    """zdb starts: all of OTHER's indexes are here then, and the store has it as before."""
    assert (await found.survey.survey()).code == 0
    assert (await found.survey.judge()).code == 0, found.held
    here = {key for key in files_of(found.folder) if key.namespace == OTHER}
    assert {key for key in before if key.kind != "data"} <= here
    assert of_other(store) == before


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
async def test_a_scan_before_zdb_starts(tmp_path: Path, lists: bool, restarted: bool) -> None:
    """hookd starts first and stores a file of another namespace: what is lost here is not forgotten."""
    store = two_namespaces(tmp_path)
    store.lists = lists
    before = of_other(store)
    with (tmp_path / "data" / NS / "d3").open("ab") as newest:
        newest.write(b"not stored yet")
    async with rig(tmp_path, store, names=(NS, OTHER)) as found:
        await store_all(found)  # as the scan at the start has it
        await found.fence.publish()
        assert OTHER not in manifest.decode(store.records[manifest.NAME]).namespaces
        assert "come back with zdb's next start" in found.held[OTHER]
        if not restarted:
            await start_and_check(found, store, before)
    if restarted:
        async with rig(tmp_path, store, names=(NS, OTHER)) as again:
            await start_and_check(again, store, before)
            assert not again.held


async def test_only_blank_files_here(tmp_path: Path) -> None:
    """A zdb that once ran without hookd left a blank namespace: enough for the scan."""
    store = two_namespaces(tmp_path)
    for key in [key for key in store.content if key.namespace == NS]:
        del store.content[key]
    before = of_other(store)
    for root in ("index", "data"):
        shutil.rmtree(tmp_path / root / NS)
    SilentZdb.at(tmp_path).create(NS)
    async with rig(tmp_path, store, names=()) as found:
        await found.owe(data_key(NS, 0), freeze=True)
        await found.empty()
        await start_and_check(found, store, before)


async def test_zdb_is_served_already(tmp_path: Path, logs: Logs) -> None:
    """It makes the namespace anew: nothing of that goes over what the store has of that name."""
    logs.allow("quarantined")
    store = two_namespaces(tmp_path)
    before = of_other(store)
    async with rig(tmp_path, store, names=()) as found:
        await found.fence.guard()
        made = SilentZdb.at(tmp_path, seed=5)
        made.create(OTHER)
        made.churn(OTHER, 2)
        job = await found.owe(data_key(OTHER, 0), freeze=True)
        await found.until(lambda: job.error is not None)
        assert of_other(store) == before


@pytest.mark.parametrize("lists", [True, False])
async def test_taken_over_before_all_was_asked_for(
    tmp_path: Path, lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore puts our name there, and hookd ends before the next namespace: it is asked for still."""
    store = two_namespaces(tmp_path)
    store.lists = lists
    before = of_other(store)
    named = {key: each for key, each in store.content.items() if key.namespace == NS}
    fill(store, named, named=True, writer="before")
    for root in ("index", "data"):
        shutil.rmtree(tmp_path / root / NS)
    async with rig(tmp_path, store, names=(NS, "zzz", OTHER)) as found:
        decide, done = found.survey.verdicts.of, []

        async def one_only(self: object, name: str, *arguments: object) -> object:
            if name == OTHER:
                raise KeyboardInterrupt
            done.append(name)
            return await decide(name, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(type(found.survey.verdicts), "of", one_only)
        with pytest.raises(KeyboardInterrupt):
            await found.survey.survey()
        monkeypatch.undo()
    async with rig(tmp_path, store, names=(NS, "zzz", OTHER)) as again:
        await start_and_check(again, store, before)


async def test_a_store_that_cannot_list_now(tmp_path: Path) -> None:
    """zdb waits: what it has would be forgotten."""
    store = two_namespaces(tmp_path)
    before = of_other(store)
    listed = store.namespaces
    asked = 0

    async def refuses_once() -> object:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreTemporary("namespaces", "folder", "not now")
        return await listed()

    store.namespaces = refuses_once  # type: ignore[method-assign, assignment]
    async with rig(tmp_path, store, names=()) as found:
        await start_and_check(found, store, before)
        assert asked > 1


async def test_asked_once(tmp_path: Path) -> None:
    """Where all was asked for, no later start asks for names again."""
    store = two_namespaces(tmp_path)
    async with rig(tmp_path, store, names=()) as found:
        await start_and_check(found, store, of_other(store))
    async with rig(tmp_path, store, names=()) as again:
        assert await again.survey.asked.all()
        store.namespaces = None  # type: ignore[method-assign, assignment]
        assert (await again.survey.survey()).code == 0
