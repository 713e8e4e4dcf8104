"""A restore by hand of some namespaces: those alone, and nothing of the others is lost by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from hookd import manifest
from hookd.errors import StoreTemporary
from hookd.files import FileKey
from hookd.restore.local import WORK
from hookd.restore.result import told
from hookd.restore.survey import ZDB_STARTED
from hookd.restore.table import Decision, Here
from tests.conftest import Logs
from tests.fakes.rig import rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import EXPECTED, entries_of, files_of, fill, wipe

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

ONE, OTHER = "one", "other"


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED)


def two_at(folder: Path) -> dict[FileKey, bytes]:
    """A zdb with two namespaces; its files."""
    zdb = SilentZdb.at(folder)
    for name in (ONE, OTHER):
        zdb.create(name)
        zdb.churn(name, 6)
        zdb.rotate(name)
        zdb.churn(name, 3)
    return files_of(folder)


def here(folder: Path) -> set[str]:
    """Namespaces with files."""
    return {key.namespace for key in files_of(folder)}


@pytest.mark.parametrize("knows", [False, True])
async def test_only_that_one(tmp_path: Path, knows: bool) -> None:
    """With a new journal and an old one; the other one comes with the next survey."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        if knows:
            await found.survey.survey()
            await found.survey.judge()
            wipe(tmp_path)
        assert await found.survey.by_hand([ONE]) is None
        assert here(tmp_path) == {ONE}
        result = told(found.survey.findings, [ONE])
        assert list(result.restored) == [ONE]
        assert list(result.left) == [OTHER]
        assert list(found.held) == [OTHER], "zdb must not serve it blank"
        assert not found.survey.undecided
        named = manifest.decode(store.records[manifest.NAME])
        assert set(named.namespaces) == {ONE, OTHER}
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        assert here(tmp_path) == {ONE, OTHER}
    assert store.content == files


async def test_ready_before_the_others_are_back(tmp_path: Path) -> None:
    """A zdb whose namespaces-init nobody answered may not serve what was left out."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        assert await found.survey.by_hand([ONE]) is None
        assert (await found.survey.judge()).code == 1


async def test_without_a_manifest_all_come_together(tmp_path: Path) -> None:
    """Ours would not name what was left out, and nobody would ask for it again: nothing is restored."""
    files, store = two_at(tmp_path), MemoryStore()
    store.lists = True
    fill(store, files, named=False)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        assert await found.survey.by_hand([ONE]) is None
        assert here(tmp_path) == set()
        assert "without --namespace" in told(found.survey.findings, [ONE]).refused[ONE]
        assert await found.survey.by_hand() is None
        assert here(tmp_path) == {ONE, OTHER}


async def test_what_was_chosen_for_others_waits(tmp_path: Path) -> None:
    """A choice for the other one is neither followed nor forgotten."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        shutil.rmtree(tmp_path / "index" / ONE)
        await found.survey.choices.choose("*", "remote")
        assert await found.survey.by_hand([ONE]) is None
        assert found.survey.findings[ONE].decision is Decision.RESTORE
        assert not list((tmp_path / "index" / OTHER).glob(".hookd-aside-*"))
        assert found.survey.choices.of(OTHER) == "remote"
        assert found.survey.choices.of(ONE) is None


async def test_a_store_that_is_away(tmp_path: Path) -> None:
    """It is not waited for, and says why; nothing is changed."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    async with rig(tmp_path, store) as found:
        await found.journal.adopt(entries_of(files))
        shutil.rmtree(tmp_path / "index" / ONE)
        before = files_of(tmp_path)
        store.down = "away"
        assert "away" in (await found.survey.by_hand([ONE]) or "")
        assert files_of(tmp_path) == before
        assert not found.survey.running
        assert not found.survey.undecided


async def test_a_half_restore_goes_on(tmp_path: Path) -> None:
    """What a killed restore of one namespace leaves is marked, so that the next survey ends it."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        (tmp_path / "index" / ONE / WORK).mkdir(parents=True)
        assert await found.survey.by_hand([OTHER]) is None
        assert found.survey.findings[ONE].here is Here.INTERRUPTED
        assert (await found.survey.survey()).code == 0
    assert files_of(tmp_path).keys() >= {key for key in files if key.root == "index"}


async def test_nobody_is_called_so(tmp_path: Path) -> None:
    """Neither here nor there."""
    async with rig(tmp_path, MemoryStore()) as found:
        assert await found.survey.by_hand(["nobody"]) is None
        assert told(found.survey.findings, ["nobody"]).refused == {
            "nobody": "the store has no files of it"
        }


@pytest.mark.parametrize("seen", ["by its hook", "by its listener"])
async def test_zdb_starts_between_the_question_and_the_turn(tmp_path: Path, seen: str) -> None:
    """It has loaded what is here: nothing is set aside under it, and what was chosen stays."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        await found.survey.judge()
        await found.survey.choices.choose(ONE, "remote")
        why: list[str | None] = []

        async def runs() -> bool:
            return seen == "by its listener"

        async def by_hand() -> None:
            why.append(await found.survey.by_hand(None))

        found.survey.zdb_runs = runs
        async with anyio.create_task_group() as group, found.survey._turn:  # a namespaces-init
            group.start_soon(by_hand)
            await anyio.wait_all_tasks_blocked()
            if seen == "by its hook":
                found.survey.surveys += 1
        assert why == [ZDB_STARTED]
        assert not list((tmp_path / "index" / ONE).glob(".hookd-aside-*"))
        assert found.survey.choices.of(ONE) == "remote"


async def test_one_that_cannot_be_read(tmp_path: Path) -> None:
    """The other one comes, and the store is asked for all of them again: not all is known."""
    files, store = two_at(tmp_path), MemoryStore()
    fill(store, files, named=True)
    wipe(tmp_path)
    get = store.get

    async def failing(key: FileKey, target: Path) -> None:
        if key.namespace == OTHER:
            raise StoreTemporary("get", key, "it cannot be read")
        await get(key, target)

    store.get = failing  # type: ignore[method-assign]
    async with rig(tmp_path, store) as found:
        assert await found.survey.by_hand() is None
        result = told(found.survey.findings, None, found.survey.unread)
        assert list(result.restored) == [ONE]
        assert "it cannot be read" in result.refused[OTHER]
        assert here(tmp_path) == {ONE}
        assert not await found.survey.asked.all()
        store.get = get  # type: ignore[method-assign]
        assert await found.survey.by_hand() is None
        assert here(tmp_path) == {ONE, OTHER}
        named = manifest.decode(store.records[manifest.NAME])
        assert set(named.namespaces) == {ONE, OTHER}
