"""What somebody gave up stays so, as long as it is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd.errors import JournalUnavailable, StorePermanent
from hookd.files import FileKey, data_key, index_key, namespace_key
from hookd.journal import Job, JobState, tables
from hookd.order import NOWHERE
from hookd.skips import SKIPPED, Skips
from tests.conftest import Logs
from tests.fakes.audits import data_bytes, index_bytes
from tests.fakes.rig import Rig, rig

pytestmark = pytest.mark.anyio

KEY = index_key("ns", 0)


async def given_up(found: Rig, key: FileKey) -> Skips:
    """Somebody gave up what is there."""
    skips = found.dispatcher.departures.skips
    await skips.add(key, await skips.mark(key))
    return skips


def reloaded(found: Rig) -> Skips:
    """As the next daemon finds it."""
    made = Skips(found.journal, found.roots)
    made.load(tables.get_meta(found.journal._db))
    return made


async def test_until_it_changes(tmp_path: Path) -> None:
    """It is about that content, before and after a restart."""
    async with rig(tmp_path, run=False) as found:
        found.index(0)
        skips = await given_up(found, KEY)
        assert skips.still(KEY)
        assert not skips.still(index_key("ns", 1))
        assert list(reloaded(found)) == [KEY]
        found.index(0, b"other" * 20)
        assert not skips.still(KEY)
        assert list(reloaded(found)) == []


async def test_until_it_is_there_again(tmp_path: Path) -> None:
    """A file that is gone, or no file, was given up as that."""
    async with rig(tmp_path, run=False) as found:
        found.index(0)
        gone, link = data_key("ns", 1), data_key("ns", 2)
        found.data(0)
        found.roots.path(link).symlink_to("/etc/hostname")
        folder = namespace_key("ns")
        found.roots.path(folder).mkdir()
        for key in (gone, link, folder):
            skips = await given_up(found, key)
            assert skips.still(key)
        assert set(reloaded(found)) == {gone, link, folder}
        found.data(1)
        assert not skips.still(gone)
        found.roots.path(link).unlink()
        assert not skips.still(link)


async def test_dropped(tmp_path: Path) -> None:
    """Taken back, it is known no more; what was not given up costs no commit."""
    async with rig(tmp_path, run=False) as found:
        found.index(0)
        skips = await given_up(found, KEY)
        await skips.drop([index_key("ns", 1)])
        assert KEY in skips
        await skips.drop([KEY])
        assert KEY not in skips
        assert SKIPPED not in tables.get_meta(found.journal._db)


async def test_nonsense_in_the_journal(tmp_path: Path) -> None:
    """It is left out."""
    async with rig(tmp_path, run=False) as found:
        skips = Skips(found.journal, found.roots)
        for value in (None, 3, {"../x": "absent"}, {str(KEY): 7}):
            skips.load({SKIPPED: value})
            assert list(skips) == []


async def test_owed_again(tmp_path: Path, logs: Logs) -> None:
    """A job for the file, and the deletion of its namespace, end it; also with a full journal."""
    logs.expect("withdrawn")
    async with rig(tmp_path, run=False) as found:
        found.index(0)
        skips = await given_up(found, KEY)
        await found.owe(KEY, freeze=True)
        await found.eventually(lambda: not found.dispatcher.departures.unkept)
        assert KEY not in skips
        await given_up(found, data_key("ns", 3))
        await given_up(found, data_key("other", 3))
        await found.dispatcher.departures.disown("ns", "zdb deleted the namespace", retire=True)
        await found.eventually(lambda: not found.dispatcher.departures.unkept)
        assert list(skips) == [data_key("other", 3)]


async def test_withdrawn_while_the_journal_is_full(
    tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has left the line, and its row says so later."""
    logs.expect("withdrawn", "will retry", "quarantined")
    monkeypatch.setattr("hookd.departures.JOURNAL_AGAIN_S", 0.01)
    async with rig(tmp_path) as found:
        found.data(0)
        found.store.refuse[data_key("ns", 0)] = StorePermanent("put", data_key("ns", 0), "no")
        job = await found.owe(data_key("ns", 0), sealed=True)
        await found.until(lambda: job.state is JobState.QUARANTINED and not found.running)

        async def fail(*_: object) -> None:
            raise JournalUnavailable("disk full")

        with monkeypatch.context() as full:
            full.setattr(found.journal, "set_meta", fail)
            with pytest.raises(JournalUnavailable):
                await found.dispatcher.departures.withdraw(job, "skipped")
        assert len(found.scheduler) == 0
        assert found.states() == [("data/ns/d0", "withdrawn")]


async def quarantined(found: Rig, content: bytes) -> None:
    """A snapshot of d0 that the store refuses, and i0, which waits for it."""
    key = found.data(0, content)
    found.index(0, index_bytes(0, values=3))
    found.store.refuse[key] = StorePermanent("put", key, "no")
    await found.admit(found.closing(0))
    await found.until(
        lambda: (
            any(job.state is JobState.QUARANTINED for job in found.scheduler) and not found.running
        )
    )
    found.store.refuse.clear()


async def test_a_snapshot_is_given_up_not_what_came_after_it(tmp_path: Path, logs: Logs) -> None:
    """zdb went on since it was made: what it wrote is nobody's decision, and nothing goes without it."""
    logs.expect("withdrawn", "will retry", "quarantined")
    async with rig(tmp_path) as found:
        await quarantined(found, data_bytes(0, 3))
        key = found.data(0, data_bytes(0, 50))
        found.index(0, index_bytes(0, values=50))
        departures, asked = found.dispatcher.departures, list[bool]()
        departures.scan = lambda: asked.append(True)
        [job] = found.scheduler.of(key)
        assert not await departures.withdraw(job, "skipped")
        assert (list(departures.skips), asked) == ([], [True])
        assert found.scheduler.unchecked(Job(key=index_key("ns", 1), needs=1)) == [(key, 0)]
        await found.admit(found.closing(0))
        await found.empty()
        assert found.store.content[key] == found.live(key)
        assert found.store.content[KEY] == found.live(KEY)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_snapshot_of_what_is_here(tmp_path: Path, logs: Logs, gone: bool) -> None:
    """Or of what is nowhere any more: it is given up, and its index goes."""
    logs.expect("withdrawn", "will retry", "quarantined")
    async with rig(tmp_path) as found:
        await quarantined(found, data_bytes(0, 3))
        key = data_key("ns", 0)
        if gone:
            found.roots.path(key).unlink()
        departures = found.dispatcher.departures
        [job] = found.scheduler.of(key)
        assert await departures.withdraw(job, "skipped")
        await found.empty()
        assert found.store.content == {KEY: found.live(KEY)}
        assert reloaded(found).length(key) == (NOWHERE if gone else len(data_bytes(0, 3)))
