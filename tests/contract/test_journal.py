"""The journal's contract: what was awaited is on disk, in order, whole, also after a crash.

A crash is a copy of the database and its WAL while the journal is open: what kill -9 leaves. A power
cut is such a copy with the end of the WAL missing or wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hookd import faults
from hookd.digest import digest_of
from hookd.errors import Exit, JournalCorrupt, JournalUnavailable, UserError
from hookd.files import FileKey, data_key, index_key
from hookd.journal import (
    EventRow,
    Job,
    JobState,
    Journal,
    LedgerEntry,
    Outcome,
    commits,
    connect,
    connection,
    tables,
)
from hookd.journal import journal as module
from hookd.journal.schema import MIGRATIONS, migrate
from tests.fakes.disk import fill, small_disk

pytestmark = pytest.mark.anyio


def event(number: int = 0, **fields: Any) -> EventRow:
    values: dict[str, Any] = {
        "event_id": number.to_bytes(16, "big"),
        "argv": ("close", str(number)),
        "cwd": "/srv",
        "received_at": time.time(),
        "origin": "socket",
        "outcome": Outcome.ACCEPTED,
        "answer": 0,
    }
    return EventRow(**values | fields)


def job(key: FileKey | None = None, **fields: Any) -> Job:
    values: dict[str, Any] = {"key": key or index_key("ns", 0), "since": 1.5}
    return Job(**values | fields)


def entry(of: Job, content: bytes = b"content", **fields: Any) -> LedgerEntry:
    values: dict[str, Any] = {
        "key": of.key,
        "size_bytes": len(content),
        "digest": digest_of(content),
        "stored_at": 17.0,
        "sealed": False,
        "job": of.id,
        "begun": of.begun,
    }
    return LedgerEntry(**values | fields)


class Base:
    """A database file and the journals on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.db"
        self.broken: list[Exception] = []

    @asynccontextmanager
    async def open(self, path: Path | None = None) -> AsyncIterator[Journal]:
        journal = Journal(connect(path or self.path), on_broken=self.broken.append)
        try:
            yield journal
        finally:
            await journal.aclose()

    def crash(self, name: str = "crashed") -> Path:
        """What a kill -9 leaves now."""
        path = self.folder / name / "journal.db"
        path.parent.mkdir()
        for part in self.folder.glob("journal.db*"):
            shutil.copy(part, path.parent)
        return path

    @staticmethod
    def rows(path: Path, question: str) -> list[Any]:
        """What another program reads there."""
        db = sqlite3.connect(path)
        with contextlib.closing(db):
            return db.execute(question).fetchall()


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(tmp_path)


class TestAppend:
    async def test_everything_comes_back(self, base: Base) -> None:
        """Each field of an event and of its jobs is there after a crash, as it was given."""
        row = event(
            7,
            argv=("jump-index", "z", os.fsdecode(b"/i/\xff\n"), "", "0 1"),
            cwd="/srv/zdb",
            origin="spool",
            outcome=Outcome.HELD,
            note="why",
            answer=None,
        )
        jobs = [
            job(
                index_key("ns", 3),
                staged="run-1/i3",
                freeze=True,
                size_bytes=123,
                digest=bytes(range(16)),
                needs=3,
                needs_bytes=99,
                attempts=2,
                error_class="temporary",
                error="x",
            ),
            job(data_key("ns", 3), sealed=True, ask_first=True),
        ]
        async with base.open() as journal:
            seq = await journal.append(row, jobs)
            path = base.crash()
            assert [(each.id, each.turn, each.event) for each in jobs] == [(1, 1, seq), (2, 2, seq)]
        async with base.open(path) as journal:
            assert await journal.find_event(seq) == row
            assert await journal.find_event(seq + 1) is None
            for found, given in zip(await journal.open_jobs(), jobs, strict=True):
                for name in Job.__slots__:
                    if name not in ("place", "queued_at", "refusals", "content"):
                        assert getattr(found, name) == getattr(given, name), name

    async def test_cwd_that_is_no_text(self, base: Base) -> None:
        """A folder name that is no UTF-8 costs the folder's exact name, not the event."""
        async with base.open() as journal:
            seq = await journal.append(event(cwd=os.fsdecode(b"/a/\xff")))
            found = await journal.find_event(seq)
            assert found is not None
            assert found.cwd == "/a/\\udcff"

    async def test_ids_ascend(self, base: Base) -> None:
        """Ids are in the order of the calls, jobs of a call in their order, also over a restart."""
        async with base.open() as journal:
            pairs = [[job(), job()] for _ in range(100)]
            await asyncio.gather(*(journal.append(event(n), p) for n, p in enumerate(pairs)))
            ids = [each.id for pair in pairs for each in pair]
            assert ids == list(range(1, 201))
            assert [pair[0].event for pair in pairs] == list(range(1, 101))
        async with base.open() as journal:
            later = job()
            assert await journal.append(event(), [later]) == 101
            assert later.id == 201

    async def test_event_and_jobs_are_one(self, base: Base) -> None:
        """A job that cannot be written takes its event with it, and no other event."""
        good, bad = job(), job(error=os.fsdecode(b"\xff"))
        async with base.open() as journal:
            results = await asyncio.gather(
                journal.append(event(1), [good]),
                journal.append(event(2), [job(), bad]),
                journal.append(event(3)),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [int, UnicodeEncodeError, int]
            path = base.crash()
        assert base.rows(path, "SELECT event_id FROM events") == [
            (n.to_bytes(16, "big"),) for n in (1, 3)
        ]
        assert base.rows(path, "SELECT id FROM jobs") == [(good.id,)]

    async def test_small_snapshots(self, base: Base) -> None:
        """A small snapshot's bytes are in its event's commit, and leave memory and then the table."""
        content = os.urandom(1000)
        one = job(staged="run-1/i0", content=content)
        two = job(index_key("ns", 1), staged="run-2/i1", content=b"2")
        async with base.open() as journal:
            await journal.append(event(), [one, two])
            assert one.content is None
            path = base.crash()
            question = "SELECT job, content FROM snapshots"
            assert base.rows(path, question) == [(one.id, content), (two.id, b"2")]
            await journal.settle(one, entry(one))
            await journal.move([two.id], JobState.WITHDRAWN, "skipped")
            assert base.rows(base.crash("later"), question) == []
        async with base.open(path) as journal:
            assert dict(tables.snapshots(journal._db)) == {"run-1/i0": content, "run-2/i1": b"2"}

    async def test_snapshot_made_later(self, base: Base) -> None:
        """A job that froze its file later brings the bytes with its next save."""
        late = job(freeze=True)
        async with base.open() as journal:
            await journal.append(event(), [late])
            late.staged, late.content = "run-9/i0", b"late"
            await journal.save(late)
            assert not late.content
            assert dict(tables.snapshots(journal._db)) == {"run-9/i0": b"late"}
            newer = job()
            await journal.append(event(2), [newer])
            await journal.supersede([late], newer)
            assert dict(tables.snapshots(journal._db)) == {}


class TestGroupCommit:
    async def test_one_transaction(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """What many callers hand over in one turn of the loop costs one commit."""
        commits: list[str] = []
        monkeypatch.setattr(faults, "hit", commits.append)
        async with base.open() as journal:
            seqs = await asyncio.gather(*(journal.append(event(n), [job()]) for n in range(64)))
            assert commits == ["commit-begin", "commit-done"]
            assert seqs == list(range(1, 65))
            assert len(base.rows(base.crash(), "SELECT * FROM events")) == 64

    async def test_bounded(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """No transaction is larger than MAX_BATCH, and none is forgotten."""
        steps: list[str] = []
        monkeypatch.setattr(faults, "hit", steps.append)
        count = 2 * commits.MAX_BATCH + 1
        async with base.open() as journal:
            await asyncio.gather(*(journal.append(event(n)) for n in range(count)))
            assert steps.count("commit-done") == 3
            assert base.rows(base.crash(), "SELECT count(*) FROM events") == [(count,)]

    async def test_not_before_the_commit(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody is told before the commit returned."""
        async with base.open() as journal:
            waiting = asyncio.ensure_future(journal.append(event()))

            def hit(step: str) -> None:
                assert not waiting.done()

            monkeypatch.setattr(faults, "hit", hit)
            assert await waiting == 1

    async def test_in_order(self, base: Base) -> None:
        """Changes of different kinds take effect in the order in which they were handed over."""
        one = job()
        async with base.open() as journal:
            await journal.append(event(), [one])
            row = event(2)
            done = await asyncio.gather(
                journal.settle(one, entry(one, b"old")),
                journal.find_ledger(one.key),
                journal.settle(one, entry(one, b"new")),
                journal.append(row, [job()]),
                journal.find_event(2),
                journal.find_ledger(one.key),
            )
            assert done[1] == entry(one, b"old")
            assert done[4] == row
            assert done[5] == entry(one, b"new")

    async def test_a_failing_change(self, base: Base) -> None:
        """A change that fails is undone whole; those before and behind it in its batch stand."""
        ok = [job(index_key("ns", n)) for n in range(2)]

        def half(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO meta VALUES ('half', '1')")
            raise RuntimeError("bug")

        async with base.open() as journal:
            results = await asyncio.gather(
                journal.append(event(1), ok[:1]),
                journal._do(half),
                journal.append(event(2), ok[1:]),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [int, RuntimeError, int]
            path = base.crash()
        assert base.rows(path, "SELECT * FROM meta") == []
        assert base.rows(path, "SELECT id FROM jobs ORDER BY id") == [(1,), (2,)]

    async def test_cancelled_caller(self, base: Base) -> None:
        """A caller that is cancelled harms nobody: its change is whole or absent, others get theirs."""
        async with base.open() as journal:
            tasks = [asyncio.ensure_future(journal.append(event(n), [job()])) for n in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[1], asyncio.CancelledError)
            assert (results[0], results[2]) == (1, 3)
            path = base.crash()
        events = base.rows(path, "SELECT seq FROM events")
        assert events == base.rows(path, "SELECT event FROM jobs")
        assert {1, 3} <= {seq for (seq,) in events}


class TestStates:
    async def test_save(self, base: Base) -> None:
        """Every field that changes on the way is kept; the rest of the rows is not touched."""
        one, other = job(), job(data_key("ns", 0))
        async with base.open() as journal:
            await journal.append(event(), [one, other])
            one.state, one.attempts, one.error = JobState.QUARANTINED, 3, "refused"
            one.needs, one.needs_bytes, one.staged = 4, 5, "run-2/i0"
            await journal.save(one)
            found = {each.id: each for each in await journal.open_jobs()}
            assert (found[one.id].state, found[one.id].error) == (one.state, "refused")
            assert (found[one.id].needs, found[one.id].needs_bytes) == (4, 5)
            assert found[other.id].attempts == 0

    async def test_what_is_written_is_of_the_call(self, base: Base) -> None:
        """A job that changes on while its row waits for the commit does not change the row."""
        one = job()
        async with base.open() as journal:
            await journal.append(event(), [one])
            one.attempts = 1
            saving = asyncio.ensure_future(journal.save(one))
            await asyncio.sleep(0)
            one.attempts = 99
            await saving
            assert (await journal.open_jobs())[0].attempts == 1

    async def test_settle(self, base: Base) -> None:
        """The job is done and the ledger has it, in one commit; the job itself is not changed yet."""
        one = job()
        async with base.open() as journal:
            await journal.append(event(), [one])
            await journal.settle(one, entry(one))
            assert one.state is JobState.PENDING
            path = base.crash()
        async with base.open(path) as journal:
            assert await journal.open_jobs() == []
            assert await journal.find_ledger(one.key) == entry(one)
            assert await journal.ledger() == [entry(one)]
            assert await journal.ledger_totals() == (1, 7)

    async def test_settle_is_one(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the ledger cannot be written the job stays open."""
        one = job()
        async with base.open() as journal:
            await journal.append(event(), [one])
            with pytest.raises(JournalUnavailable):
                await journal.settle(one, entry(one, digest=None))
            assert [each.id for each in await journal.open_jobs()] == [one.id]
            assert await journal.find_ledger(one.key) is None

    async def test_an_older_job(self, base: Base) -> None:
        """A job never overwrites what one that was read later has proven, in whatever order they came."""
        old, new = job(), job()
        old.begun, new.begun = 1, 2
        async with base.open() as journal:
            await journal.append(event(), [new, old])
            await journal.settle(new, entry(new, b"new"))
            await journal.settle(old, entry(old, b"old"))
            assert await journal.find_ledger(old.key) == entry(new, b"new")
            assert await journal.open_jobs() == []

    async def test_supersede(self, base: Base) -> None:
        """The old ones are closed and say by what; the new one has their turn; one commit."""
        olds, new = [job(), job()], job()
        async with base.open() as journal:
            await journal.append(event(), [*olds, new])
            new.turn, new.since = 1, 0.5
            await journal.supersede(olds, new)
            path = base.crash()
        [found] = [each async for each in _open_jobs(base, path)]
        assert (found.id, found.turn, found.since) == (new.id, 1, 0.5)
        states = base.rows(path, "SELECT state, error FROM jobs ORDER BY id")
        assert states[:2] == [("superseded", f"by job {new.id}")] * 2

    async def test_move(self, base: Base) -> None:
        """A note is kept with the state; without one the last error stays."""
        one = job(error="why")
        async with base.open() as journal:
            await journal.append(event(), [one])
            await journal.move([one.id], JobState.QUARANTINED)
            assert (await journal.open_jobs())[0].error == "why"
            await journal.move([one.id], JobState.WITHDRAWN, "zdb deleted the namespace")
            path = base.crash()
        assert base.rows(path, "SELECT state, error FROM jobs") == [
            ("withdrawn", "zdb deleted the namespace")
        ]

    async def test_running_is_pending_after_a_crash(self, base: Base) -> None:
        """What a dead process was working on is to be done again; nothing else changes."""
        states = list(JobState)
        jobs = [job(index_key("ns", n), state=state) for n, state in enumerate(states)]
        async with base.open() as journal:
            await journal.append(event(), jobs)
            path = base.crash()
        with contextlib.closing(connect(path)) as db:
            tables.running_to_pending(db)
            found = {each.key.number: each.state for each in tables.open_jobs(db)}
        assert found == {
            n: JobState.PENDING if state is JobState.RUNNING else state
            for n, state in enumerate(states)
            if state in (JobState.PENDING, JobState.RUNNING, JobState.QUARANTINED)
        }

    async def test_answered(self, base: Base) -> None:
        """The answer of a blocking event is known to whoever asks after a restart."""
        async with base.open() as journal:
            seq = await journal.append(event(5, answer=None))
            await journal.append(event(6, received_at=10.0))
            await journal.answered(seq, 1)
            first, second = ((number).to_bytes(16, "big") for number in (5, 6))
            found = tables.recent_events(journal._db, 100)
            assert found == [(first, seq, 1), (second, seq + 1, 0)]
            assert tables.recent_events(journal._db, 1) == found[1:]
            assert await journal.find_event_ids([first, second], up_to=seq) == {first: (seq, 1)}
            assert await journal.find_event_ids([], up_to=seq) == {}

    async def test_newest_events_stay(self, base: Base) -> None:
        """Whatever a clock says of their age: their shims may come again."""
        async with base.open() as journal:
            for number in range(5):
                await journal.append(event(number, received_at=10.0))
            while await journal.prune(before=1e12, open_events=frozenset(), keep_events=2):
                pass
            left = [event_id for event_id, *_ in tables.recent_events(journal._db, 100)]
            assert left == [number.to_bytes(16, "big") for number in (3, 4)]

    async def test_meta(self, base: Base) -> None:
        """Small facts are kept, replaced and forgotten."""
        async with base.open() as journal:
            await journal.set_meta("held", {"ns": "why"})
            await journal.set_meta("held", {"ns": "other"})
            await journal.set_meta("x", [1])
            await journal.set_meta("x", None)
        async with base.open() as journal:
            assert tables.get_meta(journal._db) == {"held": {"ns": "other"}}


async def _open_jobs(base: Base, path: Path) -> AsyncIterator[Job]:
    async with base.open(path) as journal:
        for each in await journal.open_jobs():
            yield each


class TestRetired:
    async def test_only_that_namespace(self, base: Base) -> None:
        """A deleted namespace's rows prove nothing any more, those of others do, alike or not."""
        keys = [
            index_key("ns", 0), data_key("ns", 0), index_key("ns2", 0), data_key("n", 0),
            index_key("n%", 0), index_key("n_", 0), index_key("NS", 0),
        ]  # fmt: skip
        jobs = [job(key) for key in keys]
        async with base.open() as journal:
            await journal.append(event(), jobs)
            for each in jobs:
                await journal.settle(each, entry(each))
            await journal.retire("ns")
            assert [e.key for e in await journal.ledger()] == sorted(keys[2:], key=str)
            assert await journal.find_ledger(keys[0]) is None
            assert await journal.was_retired(keys[0])
            assert not await journal.was_retired(keys[2])
            # that one may be remote without the ledger's knowledge
            assert await journal.was_retired(index_key("ns", 99))
            assert not await journal.was_retired(index_key("ns2", 99))
            assert await journal.ledger_totals() == (5, 35)

    async def test_stored_anew(self, base: Base) -> None:
        """A file of the next namespace of that name takes the row over."""
        old, new = job(), job()
        async with base.open() as journal:
            await journal.append(event(), [old, new])
            await journal.settle(old, entry(old, b"old"))
            await journal.retire("ns")
            await journal.settle(new, entry(new, b"new"))
            assert await journal.find_ledger(new.key) == entry(new, b"new")
            assert not await journal.was_retired(new.key)

    async def test_settled_after_the_deletion(self, base: Base) -> None:
        """What was being stored while the namespace was deleted is known as of a deleted one."""
        one = job()
        async with base.open() as journal:
            await journal.append(event(), [one])
            await journal.settle(one, entry(one), retired=True)
            assert await journal.find_ledger(one.key) is None
            assert await journal.was_retired(one.key)
            assert await journal.open_jobs() == []


class TestPrune:
    async def fill(self, journal: Journal, count: int) -> list[Job]:
        """Old events with a settled job each."""
        jobs = [job(index_key("ns", n)) for n in range(count)]
        for number, each in enumerate(jobs):
            await journal.append(event(number, received_at=1.0), [each])
            await journal.settle(each, entry(each, stored_at=1.0))
        return jobs

    async def test_forgets_what_is_over(self, base: Base) -> None:
        """Settled rows and their events go once they are old; the ledger stays."""
        async with base.open() as journal:
            await self.fill(journal, 3)
            await journal.prune(before=0.5, open_events=frozenset())
            assert base.rows(base.crash("early"), "SELECT count(*) FROM events") == [(3,)]
            await journal.prune(before=time.time() + 1, open_events=frozenset())
            path = base.crash()
            assert len(await journal.ledger()) == 3
        assert base.rows(path, "SELECT count(*) FROM events") == [(0,)]
        assert base.rows(path, "SELECT count(*) FROM jobs") == [(0,)]

    async def test_keeps_what_is_open(self, base: Base) -> None:
        """However old: open jobs stay, and the events that caused them."""
        states = [JobState.PENDING, JobState.RUNNING, JobState.QUARANTINED]
        jobs = [job(index_key("ns", n), state=state) for n, state in enumerate(states)]
        async with base.open() as journal:
            seq = await journal.append(event(1, received_at=1.0), jobs)
            await journal.append(event(2, received_at=1.0))
            for _ in range(3):
                await journal.prune(before=time.time() + 99, open_events=frozenset({seq}))
            assert len(await journal.open_jobs()) == 3
            assert await journal.find_event(seq) is not None
            assert await journal.find_event(seq + 1) is None

    async def test_in_windows(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """One call looks at one window and says whether there is another; then from the start again."""
        monkeypatch.setattr(module, "PRUNE_WINDOW", 4)
        async with base.open() as journal:
            await self.fill(journal, 10)
            left, more = [], []
            for _ in range(4):
                more.append(await journal.prune(before=time.time() + 1, open_events=frozenset()))
                left.append(journal._db.execute("SELECT count(*) FROM events").fetchone()[0])
            assert left == [6, 2, 0, 0]
            assert more == [True, True, False, False]
            await journal.append(event(99, received_at=1.0))
            await journal.prune(before=time.time() + 1, open_events=frozenset())
            assert await journal.find_event(11) is None

    async def test_gaps_cost_nothing(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ids that are gone already are not looked at again, and what stays is read, not written."""
        monkeypatch.setattr(module, "PRUNE_WINDOW", 4)
        async with base.open() as journal:
            jobs = await self.fill(journal, 400)
            open_job = job(index_key("ns", 0))
            await journal.append(event(500, received_at=1.0), [open_job])
            old = {"before": time.time() + 1, "open_events": frozenset({open_job.event})}
            while await journal.prune(**old):  # type: ignore[arg-type]
                pass
            marks = journal._db.execute("SELECT value FROM meta").fetchall()
            assert not await journal.prune(**old)  # type: ignore[arg-type]
            assert await journal.find_event(open_job.event) is not None
            assert [each.id for each in await journal.open_jobs()] == [len(jobs) + 1]
            assert journal._db.execute("SELECT value FROM meta").fetchall() == marks

    async def test_ids_are_never_used_again(self, base: Base) -> None:
        """Also with every row pruned and the daemon started again: order is by id."""
        async with base.open() as journal:
            await self.fill(journal, 5)
            later = job()
            await journal.append(event(), [later])
            await journal.move([later.id], JobState.WITHDRAWN)
            for _ in range(2):
                await journal.prune(before=time.time() + 1, open_events=frozenset())
            path = base.crash()
        assert base.rows(path, "SELECT count(*) FROM jobs") == [(0,)]
        async with base.open(path) as journal:
            new = job()
            assert await journal.append(event(), [new]) == 7
            assert new.id == 7


class TestOpen:
    async def test_from_nothing(self, base: Base) -> None:
        """A new file has the newest schema and the durable settings."""
        with contextlib.closing(connect(base.path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert db.execute("PRAGMA synchronous").fetchone() == (2,)
            migrate(db)
        assert base.path.stat().st_size > 0

    async def test_step_by_step(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """A released version is brought up by the scripts it lacks, each in its own transaction."""
        async with base.open() as journal:
            await journal.append(event(), [job()])
        with monkeypatch.context() as patch:
            extra = (*MIGRATIONS, "CREATE TABLE more (x);", "CREATE TABLE broken (x); SELECT x;")
            patch.setattr("hookd.journal.schema.MIGRATIONS", extra)
            with pytest.raises(JournalUnavailable):
                connect(base.path)
        rows = base.rows(base.path, "PRAGMA user_version")
        assert rows == [(len(MIGRATIONS) + 1,)]
        names = {n for (n,) in base.rows(base.path, "SELECT name FROM sqlite_master")}
        assert "more" in names
        assert "broken" not in names
        assert base.rows(base.path, "SELECT count(*) FROM jobs") == [(1,)]

    async def test_from_version_1(self, base: Base) -> None:
        """What was in order by ids is so by the numbers that came with version 2, and they go on."""
        with contextlib.closing(sqlite3.connect(base.path)) as db:
            db.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
            for number in (4, 7):
                values = (number, 0, "index/ns/i0", "pending", number, 1.5, f"run-{number}/i0", 0, 10,
                          bytes(16), 0, 0, 0, 0, 0, None, None, 1.5)  # fmt: skip
                db.execute(f"INSERT INTO jobs VALUES ({', '.join('?' * 18)})", values)
            db.execute("INSERT INTO ledger VALUES ('index/ns/i0', 3, x'00', 1.5, 0, 5, NULL)")
            db.commit()
        async with base.open() as journal:
            older, newer = await journal.open_jobs()
            found = await journal.find_ledger(older.key)
            assert found is not None
            assert (older.begun, found.begun, newer.begun) == (4, 5, 7)
            assert journal.begin() == 8
            added = job()
            await journal.add_jobs([added])
            assert added.begun == 9
            path = base.crash()
        async with base.open(path) as journal:
            assert journal.begin() == 10

    async def test_newer_schema(self, base: Base) -> None:
        """The database of a newer hookd is refused with one line, and not touched."""
        with contextlib.closing(sqlite3.connect(base.path)) as db:
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        before = base.path.read_bytes()
        with pytest.raises(UserError, match="newer") as refused:
            connect(base.path)
        assert refused.value.code is Exit.FAILED
        with contextlib.closing(sqlite3.connect(base.path)) as db:
            assert db.execute("SELECT * FROM sqlite_master").fetchall() == []
        assert len(before) == base.path.stat().st_size

    @pytest.mark.parametrize("content", [b"no database at all, but long enough" * 100, bytes(5000)])
    async def test_no_database(self, base: Base, content: bytes) -> None:
        """A file that is none is damage: it can be moved aside."""
        base.path.write_bytes(content)
        with pytest.raises(JournalCorrupt):
            connect(base.path)
        assert base.path.read_bytes() == content

    async def test_cannot_be_opened(self, base: Base) -> None:
        """A folder in its place is trouble of the place, not damage."""
        base.path.mkdir()
        with pytest.raises(JournalUnavailable):
            connect(base.path)

    async def test_closed(self, base: Base) -> None:
        """After the end nothing is taken and nobody waits forever; closing twice is closing once."""
        async with base.open() as journal:
            last = asyncio.ensure_future(journal.append(event()))
            await asyncio.sleep(0)
            await journal.aclose()
            assert await last == 1
            await journal.aclose()
            with pytest.raises(JournalUnavailable, match="closed"):
                await journal.append(event())
        assert base.rows(base.path, "SELECT count(*) FROM events") == [(1,)]


class TestLog:
    """The write-ahead log: its length is made at the start, its content taken over when it is quiet."""

    async def test_stretched(self, base: Base) -> None:
        """A stretched log changes nothing but its length, and commits fit into it."""
        async with base.open() as journal:
            await journal.append(event(1), [job()])
        for _ in range(2):
            journal = Journal(connect(base.path, stretch=True), on_broken=base.broken.append)
            wal = base.path.with_name("journal.db-wal")
            length = wal.stat().st_size
            assert length >= connection.STRETCH_BYTES
            for number in range(20):
                await journal.append(event(number), [job()])
            assert wal.stat().st_size == length
            await journal.aclose()
        rows = base.rows(base.path, "SELECT name FROM sqlite_master WHERE type = 'table'")
        assert {name for (name,) in rows} == {"meta", "events", "jobs", "snapshots", "ledger"}
        assert base.rows(base.path, "SELECT count(*) FROM events") == [(41,)]

    async def test_stretched_and_killed(self, base: Base) -> None:
        """What is committed into a stretched log survives a kill, and no older frame comes back."""
        journal = Journal(connect(base.path, stretch=True), on_broken=base.broken.append)
        for number in range(5):
            await journal.append(event(number), [job(index_key("ns", number))])
        path = base.crash()
        await journal.aclose()
        async with base.open(path) as again:
            assert [each.key.number for each in await again.open_jobs()] == list(range(5))

    @pytest.mark.parametrize("leave_kib", [0, 600])
    async def test_no_room_to_stretch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave_kib: int
    ) -> None:
        """Without room it is not stretched: slower commits, no failure."""
        monkeypatch.setattr(connection, "STRETCH_NEEDS_BYTES", 0)
        with small_disk(tmp_path / "disk", size_kib=2048) as disk:
            base = Base(disk)
            async with base.open() as journal:
                await journal.append(event(1), [job()])
            ballast = fill(disk, leave_kib=leave_kib)
            db = connect(base.path, stretch=True)
            assert not db.in_transaction
            journal = Journal(db, on_broken=base.broken.append)
            ballast.unlink()
            assert len(await journal.open_jobs()) == 1
            assert await journal.append(event(2)) == 2
            await journal.aclose()

    async def test_emptied_when_quiet(self, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
        """After many changes and a silence the database itself has them."""
        monkeypatch.setattr(commits, "IDLE_CHANGES", 10)
        monkeypatch.setattr(commits, "IDLE_S", 0.02)
        async with base.open() as journal:
            for number in range(10):
                await journal.append(event(number))
            for _ in range(500):
                await asyncio.sleep(0.005)
                alone = base.folder / "alone.db"
                shutil.copy(base.path, alone)
                with contextlib.suppress(sqlite3.Error):
                    if base.rows(alone, "SELECT count(*) FROM events") == [(10,)]:
                        break
            else:
                pytest.fail("the log was never taken over")

    async def test_emptied_behind_an_answer(
        self, base: Base, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a silence it is emptied all the same, after those who wait have been told."""
        monkeypatch.setattr(commits, "BUSY_COMMITS", 10)
        steps: list[str] = []
        async with base.open() as journal:
            empty = journal._commits._checkpoint

            def checkpoint() -> None:
                steps.append("emptied")
                empty()

            monkeypatch.setattr(journal._commits, "_checkpoint", checkpoint)
            for number in range(25):
                await journal.append(event(number))
                steps.append("told")
            assert steps.count("emptied") == 2
            assert steps.index("emptied") == 10
            alone = base.folder / "alone.db"
            shutil.copy(base.path, alone)
            assert base.rows(alone, "SELECT count(*) FROM events") == [(20,)]

    async def test_closed_before_it_is_quiet(
        self, base: Base, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A journal that is closed meanwhile is left alone."""
        monkeypatch.setattr(commits, "IDLE_CHANGES", 1)
        monkeypatch.setattr(commits, "IDLE_S", 0.01)
        async with base.open() as journal:
            await journal.append(event())
        await asyncio.sleep(0.03)


@pytest.mark.parametrize("stretch", [False, True])
class TestPowerCut:
    @pytest.fixture
    async def cut(self, base: Base, stretch: bool) -> tuple[Path, int]:
        """Ten acknowledged events and then the plug; where in the WAL the fifth one ends.

        In a stretched WAL the frames of the stretching lie behind the last one.
        """
        wal = base.folder / "journal.db-wal"
        journal = Journal(connect(base.path, stretch=stretch), on_broken=base.broken.append)
        images = []
        for number in range(10):
            await journal.append(event(number), [job(index_key("ns", number))])
            images.append(wal.read_bytes())
        path = base.crash()
        await journal.aclose()
        fifth, sixth = images[4], images[5]
        end, frame = 32, 24 + 4096
        while end < len(fifth) and fifth[end : end + frame] == sixth[end : end + frame]:
            end += frame
        return path, end

    async def left(self, base: Base, path: Path) -> int:
        """Events after the start; each with its job, and they are the first ones."""
        async with base.open(path) as journal:
            jobs = await journal.open_jobs()
            assert [each.key.number for each in jobs] == list(range(len(jobs)))
            for each in jobs:
                found = await journal.find_event(each.event)
                assert found is not None
                assert found.argv[1] == str(each.key.number)
            # and it goes on
            await journal.append(event(99), [job(index_key("ns", 99))])
        assert base.broken == []
        return len(jobs)

    async def test_whole(self, base: Base, cut: tuple[Path, int]) -> None:
        """kill -9: all that was acknowledged is there."""
        path, _ = cut
        assert await self.left(base, path) == 10

    @pytest.mark.parametrize("beyond", [0, 1, 23, 24, 100, 4000])
    async def test_truncated(self, base: Base, cut: tuple[Path, int], beyond: int) -> None:
        """A WAL that ends early: everything before its end is there, no half of a transaction."""
        path, middle = cut
        os.truncate(path.with_name("journal.db-wal"), middle + beyond)
        assert 5 <= await self.left(base, path) < 10

    @pytest.mark.parametrize("length", [1, 64, 5000])
    @pytest.mark.parametrize("beyond", [0, 10, 23, 500, 4110])
    async def test_wrong_bytes(
        self, base: Base, cut: tuple[Path, int], beyond: int, length: int
    ) -> None:
        """Wrong bytes in the WAL: everything committed before them is there."""
        path, middle = cut
        with path.with_name("journal.db-wal").open("r+b") as wal:
            wal.seek(middle + beyond)
            right = wal.read(length)
            wal.seek(middle + beyond)
            wal.write(bytes(byte ^ 0xFF for byte in right))
        assert 5 <= await self.left(base, path) < 10

    async def test_junk_behind(self, base: Base, cut: tuple[Path, int]) -> None:
        """Junk after the last frame costs nothing."""
        path, _ = cut
        with path.with_name("journal.db-wal").open("ab") as wal:
            wal.write(os.urandom(10_000))
        assert await self.left(base, path) == 10


class TestDamage:
    async def large(self, base: Base) -> None:
        """More than SQLite keeps in memory."""
        async with base.open() as journal:
            for start in range(0, 30_000, 10_000):
                values = [
                    (f"index/{'n' * 100}/i{start + n}", 1, bytes(16), 1.0, 0, 1, None, 1)
                    for n in range(10_000)
                ]

                def change(db: sqlite3.Connection, values: list[Any] = values) -> None:
                    db.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

                await journal._do(change)

    def overwrite(self, path: Path, start: int) -> None:
        """Garbage from `start` to the end."""
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(start)
            file.write(os.urandom(size - start))

    async def test_at_the_start(self, base: Base) -> None:
        """A damaged page is found when the database is opened, before anything relies on it."""
        await self.large(base)
        self.overwrite(base.path, 40 * 4096)
        with pytest.raises(JournalCorrupt):
            connect(base.path)

    async def test_while_running(self, base: Base) -> None:
        """Found later, it is JournalCorrupt for the caller, and the daemon is told."""
        await self.large(base)
        async with base.open() as journal:
            self.overwrite(base.path, 4096)
            with pytest.raises(JournalCorrupt):
                await journal.ledger()
            await asyncio.sleep(0)
            assert [type(error) for error in base.broken] == [JournalCorrupt]
            assert journal.last_error

    async def test_first_page(self, base: Base) -> None:
        """So is a damaged header."""
        async with base.open() as journal:
            await journal.append(event())
        self.overwrite(base.path, 0)
        with pytest.raises(JournalCorrupt):
            connect(base.path)


class TestFull:
    async def test_append(self, tmp_path: Path) -> None:
        """A full disk refuses events whole, is no damage, and takes them again when it has room."""
        with small_disk(tmp_path / "disk", size_kib=1024) as disk:
            base = Base(disk)
            async with base.open() as journal:
                await journal.append(event(0), [job()])
                ballast = fill(disk)
                refused = 0
                for number in range(1, 200):
                    try:
                        big = job(content=os.urandom(4000), staged="x")
                        await journal.append(event(number), [big])
                    except JournalUnavailable:
                        refused += 1
                        assert journal.last_error is not None
                        assert "full" in journal.last_error
                kept = 200 - refused
                assert refused > 0
                assert base.broken == []
                assert len(await journal.open_jobs()) == kept
                ballast.unlink()
                assert await journal.append(event(1000), [job()]) == 201
                assert journal.last_error is None
            rows = base.rows(base.path, "SELECT count(*) FROM events")
            jobs = base.rows(base.path, "SELECT count(*) FROM jobs")
            assert rows == jobs == [(kept + 1,)]

    async def test_others_of_the_batch(self, tmp_path: Path) -> None:
        """Of a batch that does not fit, the changes that fit are kept, and each caller knows."""
        with small_disk(tmp_path / "disk", size_kib=1024) as disk:
            base = Base(disk)
            async with base.open() as journal:
                await journal.append(event(0))
                fill(disk, leave_kib=64)
                sizes = [100, 300_000, 100, 300_000]
                calls = [
                    journal.append(event(n), [job(content=os.urandom(size), staged="x")])
                    for n, size in enumerate(sizes)
                ]
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(result) for result in results] == [
                    int, JournalUnavailable, int, JournalUnavailable,
                ]  # fmt: skip
                kept = await journal.open_jobs()
                assert [each.event for each in kept] == [results[0], results[2]]

    async def test_at_the_start(self, tmp_path: Path) -> None:
        """A database that cannot be made for lack of room is not taken for a damaged one."""
        with small_disk(tmp_path / "disk", size_kib=64) as disk:
            fill(disk)
            with pytest.raises(JournalUnavailable):
                connect(disk / "journal.db")


@pytest.mark.parametrize("now", [0.0, 4e9], ids=["back", "forward"])
async def test_clock(base: Base, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """Nothing is ordered by the wall clock: a step changes ages, no order, no state."""
    async with base.open() as journal:
        first, second = job(), job()
        await journal.append(event(1), [first])
        monkeypatch.setattr(time, "time", lambda: now)
        await journal.append(event(2), [second])
        assert [each.id for each in await journal.open_jobs()] == [first.id, second.id]
        await journal.settle(second, entry(second, b"new", stored_at=now))
        await journal.settle(first, entry(first, b"old", stored_at=now + 999))
        found = await journal.find_ledger(second.key)
        assert found == entry(second, b"new", stored_at=now)
