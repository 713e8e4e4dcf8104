"""A journal that was set back (image of a machine that ran): what waits is older than what is stored."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from hookd import manifest
from hookd.digest import digest_of
from hookd.files import data_key, index_key
from hookd.identity import Identity
from hookd.orphans import ORPHANED
from hookd.restore.unworked import Unworked
from tests.conftest import Logs
from tests.fakes.audits import data_bytes, index_bytes
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import NS, files_of, lose, mine, wipe

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]


@pytest.fixture(autouse=True)
def may_give_up(logs: Logs) -> None:
    """It is said of each copy."""
    logs.allow("withdrawn", "kept", "will retry")


async def store_two(found: Rig) -> None:
    """d0, i0 sealed, d1, i1 active; all stored."""
    for number in range(2):
        found.index(number, index_bytes(number), ns=NS)
        found.data(number, data_bytes(number), ns=NS)
        await found.owe(data_key(NS, number), sealed=number == 0, freeze=number == 1)
        await found.owe(index_key(NS, number), freeze=True, needs=number)
    await found.empty()
    await found.fence.publish()


async def go_on(found: Rig) -> None:
    """i0 is rewritten, i1 grows, twice: both stored."""
    await found.empty()
    await found.fence.publish()
    found.data(1, data_bytes(1, values=5), ns=NS)
    found.index(1, index_bytes(1, values=5), ns=NS)
    await found.owe(data_key(NS, 1), freeze=True)
    await found.owe(index_key(NS, 1), freeze=True, needs=1)
    await found.empty()
    await found.fence.publish()
    await found.eventually(lambda: not found.running)  # what was copied is removed behind it


async def set_back(folder: Path, *, restarted: bool = False) -> MemoryStore:
    """Snapshots wait in the journal that is there at the end; the store has later ones of these."""
    store = MemoryStore()
    async with rig(folder, store, names=(NS,)) as found:
        await found.fence.guard()
        await store_two(found)
        store.down = "away"
        assert (await found.admit(found.closing(1, ns=NS))).code == 0
        found.data(1, data_bytes(1, values=3), ns=NS)
        found.index(1, index_bytes(1, values=3), ns=NS)
        assert (await found.admit(found.closing(1, ns=NS))).code == 0
        # the copies of those that gave way are removed behind it
        await found.eventually(lambda: not found.dispatcher.departures.unkept)
    image = folder.parent / "image"
    shutil.copytree(folder, image)
    store.down = None
    if restarted:  # under a new name
        async with rig(folder, store, names=(NS,)) as found:
            await go_on(found)
    else:
        async with rig(folder, store, names=(NS,)) as found:
            found.fence._renamed = found.fence._begun = True
            found.fence.compared = True
            await go_on(found)
    for root in ("index", "data"):
        shutil.copytree(folder / root, folder.parent / "newest" / root)
    shutil.rmtree(folder)
    shutil.copytree(image, folder)
    return store


def kept(folder: Path) -> list[bytes]:
    """What lies in `orphaned/`."""
    return [path.read_bytes() for path in (folder / "staging" / ORPHANED).glob("*/*")]


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_disk_is_lost_too(tmp_path: Path, restarted: bool) -> None:
    """The manifest's files come back, and what waits is stored over nothing, but kept."""
    folder = tmp_path / "z"
    folder.mkdir()
    store = await set_back(folder, restarted=restarted)
    before, newest = dict(store.content), mine(tmp_path / "newest")
    wipe(folder)
    async with rig(folder, store, names=(NS,), full=True) as found:
        assert any(job.staged for job in found.scheduler)
        waits = [
            found.staging.path(job.staged).read_bytes() for job in found.scheduler if job.staged
        ]
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0, found.held
        assert mine(folder) == newest
        await found.empty()
        assert store.content == before
        await found.eventually(lambda: sorted(kept(folder)) == sorted(waits))
        rows = found.rows("SELECT error FROM jobs WHERE state = 'withdrawn'")
        assert rows
        assert all("later files than this journal knows" in note for (note,) in rows)
        await found.fence.publish()
    named = manifest.decode(store.records[manifest.NAME]).files
    assert {key: each.digest for key, each in named.items()} == {
        key: digest_of(content) for key, content in before.items()
    }


async def test_only_the_journal_was_set_back(tmp_path: Path) -> None:
    """What is here is the newest: it is served, and no older copy goes over what is stored."""
    folder = tmp_path / "z"
    folder.mkdir()
    store = await set_back(folder)
    before = dict(store.content)
    for root in ("index", "data"):
        shutil.rmtree(folder / root)
        shutil.copytree(tmp_path / "newest" / root, folder / root)
    async with rig(folder, store, names=(NS,)) as found:
        waiting = [job for job in found.scheduler if job.staged]
        await found.fence.guard()
        assert not found.held
        await found.empty()
        assert waiting
        assert store.content == before


async def test_a_copy_under_way(tmp_path: Path) -> None:
    """A worker has it already, and waits for the fence that takes the store over: it stores nothing."""
    folder = tmp_path / "z"
    folder.mkdir()
    store = await set_back(folder)
    before = dict(store.content)
    for root in ("index", "data"):
        shutil.rmtree(folder / root)
        shutil.copytree(tmp_path / "newest" / root, folder / root)
    store.puts.clear()
    async with rig(folder, store, names=(NS,)) as found:  # its workers ask the fence at once
        with anyio.fail_after(10):
            await found.empty()
    assert [key for key, content in store.puts if content != before.get(key)] == []
    assert store.content == before


async def test_the_whole_machine_was_set_back(tmp_path: Path) -> None:
    """Complete, but older: refused, and what waits stays, for somebody may choose it."""
    folder = tmp_path / "z"
    folder.mkdir()
    store = await set_back(folder)
    before, here = dict(store.content), files_of(folder)
    async with rig(folder, store, names=(NS,), run=False) as found:
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 1
        assert "--take local|remote" in found.held[NS]
        assert any(job.staged for job in found.scheduler)
    assert store.content == before
    assert files_of(folder) == here


async def test_the_store_was_set_back(tmp_path: Path) -> None:
    """An older manifest of ours: what waits here is newer, and comes back."""
    folder = tmp_path / "z"
    folder.mkdir()
    store = MemoryStore()
    async with rig(folder, store, names=(NS,)) as found:
        await found.fence.guard()
        await store_two(found)
        content, records = dict(store.content), dict(store.records)
        await go_on(found)
        store.down = "away"
        assert (await found.admit(found.closing(1, ns=NS))).code == 0
    newest = mine(folder)
    store.down, store.content, store.records = None, content, records
    lose(folder, "i0")
    async with rig(folder, store, names=(NS,), run=False, full=True) as found:
        assert any(job.staged for job in found.scheduler)
        await found.survey.survey()
        assert any(job.staged for job in found.scheduler), "they are newer than what is stored"
    assert {key: newest[key] for key in newest if key.name != "i0"}.items() <= mine(folder).items()


@pytest.mark.parametrize(
    ("sequence", "coming", "goes_on"),
    [(7, (), True), (3, (), True), (8, (), False), (8, ("a", "b"), True), (9, ("a", "b"), False)],
)
def test_goes_on(sequence: int, coming: tuple[str, ...], goes_on: bool) -> None:
    """Ours, and not from after the last that we know of, or have begun."""
    ours = Identity("l", "w", 7, "00", coming=coming, former=("before",))
    assert ours.goes_on(lineage="l", writer="w", sequence=sequence) == goes_on
    assert not ours.goes_on(lineage="l", writer="other", sequence=3)
    assert not ours.goes_on(lineage="other", writer="w", sequence=3)
    assert ours.goes_on(lineage="l", writer="before", sequence=3)


async def test_without_a_daemon(tmp_path: Path) -> None:
    """`hookd restore` in place: nobody works on the jobs, and the next daemon finds none of them."""
    folder = tmp_path / "z"
    folder.mkdir()
    store = await set_back(folder)
    before = dict(store.content)
    wipe(folder)
    async with rig(folder, store, names=(NS,), run=False, full=True) as found:
        waits = [
            found.staging.path(job.staged).read_bytes() for job in found.scheduler if job.staged
        ]
        assert waits
        alone = Unworked(found.journal, found.scheduler, found.staging.folder)
        found.survey.claim.let_go, found.survey.choices.disown = alone.forsake, alone.disown
        assert await found.survey.by_hand() is None
        assert not found.held
        assert not len(found.scheduler)
    async with rig(folder, store, names=(NS,)) as again:
        assert not len(again.scheduler)
        assert sorted(kept(folder)) == sorted(waits)
        assert (await again.survey.survey()).code == 0
        await again.empty()
    assert store.content == before
