"""The fence: a put that the frontend before this one had begun comes late: not lost, and not silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from hookd import fence as fence_stage
from hookd import manifest
from hookd.digest import digest_of
from hookd.files import FileKey, Kind, data_key, index_key
from hookd.journal import Job
from hookd.journal.records import JobState
from hookd.snapshot import hash_live
from tests.conftest import Logs
from tests.fakes.audits import audit, told
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import NS, mine, store_all, zdb_at
from tests.fakes.zdb_files import answers

pytestmark = pytest.mark.anyio

ACTIVE = 3
"""Of the files that the first frontend has stored."""

LATE = "stored over another frontend's"


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """No look at the manifest is believed a moment later; what these tests are about is said loudly."""
    monkeypatch.setattr(fence_stage, "FRESH_S", 0.0)
    logs.allow(
        "restoring",
        "restored",
        "fenced: nothing is stored any more",
        "store is down",
        "store is back",
        "local files are taken",
        LATE,
    )


async def found_by_audit(found: Rig) -> list[tuple[str, str, bool]]:
    """What an audit tells of it."""
    return [row for row in told(await audit(found)) if f"/{NS}/" in row[0]]


@dataclass
class Late:
    """Two frontends, after the second has taken over, with a put of the first under way."""

    old: Rig
    new: Rig
    zdb: SilentZdb
    """The new one's, that has written on and stored."""
    job: Job
    """Of the old one."""
    gate: anyio.Event

    async def lands(self) -> None:
        """The put takes effect."""
        self.gate.set()
        await self.old.until(lambda: not self.old.running)


@asynccontextmanager
async def late(folder: Path, key: FileKey) -> AsyncIterator[Late]:
    """The put is that of `key`."""
    store = MemoryStore(concurrency=4)
    for name in ("old", "new"):
        (folder / name).mkdir()
    before = zdb_at(folder / "old")
    async with rig(folder / "old", store) as old, rig(folder / "new", store) as new:

        def tell_both() -> None:
            old._tell()
            new._tell()

        store.changed = tell_both
        await old.survey.survey()
        await store_all(old)
        await old.fence.publish()
        before.churn(NS, 6)
        before.rotate(NS)
        for old_key in sorted(before.truth[NS]):  # every index is rewritten
            before.set(NS, old_key, b"changed")
        assert old.live(key) != store.content.get(key)
        gate = store.gates[key] = anyio.Event()
        closed = key.kind is Kind.DATA
        job = await old.owe(key, sealed=closed, freeze=not closed)
        await old.until(lambda: key in store.waiting)
        assert (await new.survey.survey()).code == 0
        assert (await new.survey.judge()).code == 0
        del store.gates[key]
        zdb = SilentZdb.at(folder / "new", seed=5)
        assert zdb.start() == 0
        zdb.truth = {NS: dict(before.truth[NS])}
        try:
            yield Late(old, new, zdb, job, gate)
        finally:
            zdb.kill()


async def right_elsewhere(folder: Path, late: Late) -> None:
    """A third frontend restores what the second has."""
    folder.mkdir()
    async with rig(folder, late.new.store, full=True) as third:
        assert (await third.survey.survey()).code == 0
        ready = await third.survey.judge()
        assert ready.code == 0, ready.text
    ours, theirs = mine(late.new.folder), mine(folder)
    both = (
        ours.keys() & theirs.keys()
    )  # data files that zdb has not asked for are in the store alone
    assert [key for key in both if ours[key] != theirs[key]] == []
    indexes = {key for key in ours if key.kind is Kind.INDEX}
    assert indexes == {key for key in theirs if key.kind is Kind.INDEX}
    answers(folder / "index", folder / "data")


async def test_over_a_sealed_file(tmp_path: Path, logs: Logs) -> None:
    """The old one says which file, and has not stored it; the new one's audit has its own back there."""
    key = data_key(NS, ACTIVE)
    async with late(tmp_path, key) as found:
        found.zdb.churn(NS, 3)
        found.zdb.rotate(NS)
        store = found.new.store
        store._running.clear()  # two frontends may store the same file at once
        await store_all(found.new)
        await found.new.fence.publish()
        ours = found.new.live(key)
        await found.lands()
        assert store.content[key] == found.old.live(key) != ours
        assert found.job.error_class == "fenced"
        assert "after another frontend had taken the store over" in (found.job.error or "")
        assert [line["file"] for line in logs.of(LATE)] == [str(key)]
        assert key not in await found.old.ledger() or (
            (await found.old.ledger())[key].digest != digest_of(found.old.live(key))
        )
        assert (str(key), "store-differs", True) in await found_by_audit(found.new)
        await found.new.until(lambda: store.content[key] == ours)
        await found.new.empty()
        assert await found_by_audit(found.new) == []
        await right_elsewhere(tmp_path / "third", found)


async def test_over_an_index(tmp_path: Path) -> None:
    """An old index comes late, with entries that point into files of the old frontend alone."""
    key = index_key(NS, 0)
    async with late(tmp_path, key) as found:
        found.zdb.churn(NS, 3)
        found.zdb.rotate(NS)
        store = found.new.store
        store._running.clear()
        await store_all(found.new)
        await found.new.fence.publish()
        ours = found.new.live(key)
        await found.lands()
        assert store.content[key] != ours
        assert (str(key), "store-differs", False) in await found_by_audit(found.new)
        await found.new.until(lambda: store.content[key] == ours)
        await found.new.empty()
        assert await found_by_audit(found.new) == []
        await right_elsewhere(tmp_path / "third", found)


@pytest.mark.parametrize("make", [index_key, data_key])
async def test_beyond_the_newest(tmp_path: Path, make: object) -> None:
    """A file that the new one has not made: it is nobody's, and no restore takes it for the newest."""
    assert callable(make)
    key = make(NS, ACTIVE + 1)
    async with late(tmp_path, key) as found:
        await found.lands()
        theirs = found.new.store.content[key]
        assert await found_by_audit(found.new) == [(str(key), "foreign", True)]
        await found.new.fence.publish()
        named = manifest.decode(found.new.store.records[manifest.NAME])
        assert named.stale == {key: digest_of(theirs)}
        assert await found_by_audit(found.new) == []
        await right_elsewhere(tmp_path / "third", found)


async def test_one_of_ours_beyond_is_not_given_away(tmp_path: Path) -> None:
    """What is on its way, known or here is ours, however the store came by it."""
    async with rig(tmp_path, MemoryStore(concurrency=4)) as found:
        zdb = zdb_at(tmp_path)
        await found.survey.survey()
        await store_all(found)
        zdb.rotate(NS)
        zdb.churn(NS, 2)
        for key in (data_key(NS, ACTIVE + 1), index_key(NS, ACTIVE + 1)):
            found.store.content[key] = found.live(key)
            assert hash_live(found.roots.path(key))[0] == digest_of(found.store.content[key])
        progress = await audit(found)
        assert "foreign" not in progress.counts
        assert await found.journal.retired() == {}


async def test_an_audit_is_due_after_a_takeover(tmp_path: Path) -> None:
    """The fence tells how long the longest file is that a put of the one before may be about."""
    async with late(tmp_path, data_key(NS, ACTIVE)) as found:
        asked: list[int] = []
        found.old.fence.taken = asked.append
        await found.old.survey.claim.take_local_now("*")
        longest = max(len(content) for content in found.new.store.content.values())
        assert asked == [longest]
        await found.lands()
        await found.old.until(lambda: found.job.state is JobState.SETTLED)  # it has the store again
