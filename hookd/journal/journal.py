"""Stage journal: the one owner of what is durable.

In: what is owed, proven and decided; out: awaitables that are done once it is on disk, whole and in the
order in which it was handed over (`commits`).

Ids are given here, ascending, before the commit, so a caller knows the line it stands in. They are the
order of the promises; which content of a file is newer says `begun`.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import anyio

from hookd.errors import JournalError
from hookd.files import FileKey
from hookd.journal import ledger_rows, tables
from hookd.journal.commits import Commits
from hookd.journal.records import EventRow, Job, JobState, LedgerEntry

PRUNE_WINDOW = 1000
"""Row ids looked at in one prune step: 3 ms on the event loop where all of them go, 0.3 ms else."""


class Journal:
    """What is owed and what is proven, on disk. Made on the event loop, closed by `aclose`."""

    def __init__(self, db: sqlite3.Connection, *, on_broken: Callable[[Exception], None]) -> None:
        """`on_broken` is called on the loop when the database turns out to be damaged."""
        self._db = db
        self._commits = Commits(db, on_broken=on_broken, ended=self._ended)
        self._do = self._commits.do
        self._event_seq, self._job_id = tables.last_ids(db)
        self._begun = itertools.count(tables.last_begun(db) + 1)
        self._prune_from = 0
        self.had_errors = False
        """Whether a change has failed since whoever asks set this back."""
        self.last_error: str | None = None
        """Why the newest change failed, None since one was committed."""

    # -- what callers ask for ------------------------------------------------------------------

    async def append(self, row: EventRow, jobs: Sequence[Job] = ()) -> int:
        """Make an event and all it causes durable; returns the event's row, sets the jobs' ids.

        Raises JournalUnavailable, and then nothing was kept. A cancellation waits for the commit: whoever
        has jobs to put in line then does so before the next await.
        """
        self._event_seq += 1
        seq = self._event_seq
        self._number(jobs, seq)
        with anyio.CancelScope(shield=True):
            await self._insert((tables.event_values(seq, row),), jobs)
        _taken(jobs)
        return seq

    def begin(self) -> int:
        """A number for the reading of a file that begins now: higher than all before, also before a
        restart. From any thread.
        """
        return next(self._begun)

    @property
    def newest_job(self) -> int:
        """The id of the newest job: what is handed over later gets a higher one."""
        return self._job_id

    async def add_jobs(self, jobs: Sequence[Job]) -> None:
        """Make jobs durable that no event caused. A cancellation waits for the commit, as in `append`."""
        self._number(jobs, 0)
        with anyio.CancelScope(shield=True):
            await self._insert((), jobs)
        _taken(jobs)

    async def answered(self, seq: int, answer: int) -> None:
        """Remember what a blocking event was answered."""
        await self._do(lambda db: tables.set_answer(db, seq, answer))

    async def save(self, job: Job) -> None:
        """Make the job's present fields durable."""
        contents = _contents([job])
        row = tables.clone(job)

        def change(db: sqlite3.Connection) -> None:
            tables.insert(db, (), (), contents)
            tables.save_job(db, row, time.time())

        await self._do(change)
        _taken([job])

    async def thaw(self, jobs: Sequence[Job]) -> None:
        """These jobs have no snapshot any more, and are to freeze their files anew; all or none of them.

        They say so themselves from the call on, so that none is begun with a copy that is about to go.
        Raises JournalError, and then they have their snapshots as before.
        """
        before = [(job, job.staged, job.digest, job.freeze) for job in jobs]
        for job in jobs:
            job.staged, job.digest, job.freeze = None, None, True
        rows, ids, now = [tables.clone(job) for job in jobs], [job.id for job in jobs], time.time()

        def change(db: sqlite3.Connection) -> None:
            tables.drop_snapshots(db, ids)
            for row in rows:
                tables.save_job(db, row, now)

        try:
            await self._do(change)
        except JournalError:
            for job, staged, digest, freeze in before:
                if job.staged is None:  # else it was frozen meanwhile
                    job.staged, job.digest, job.freeze = staged, digest, freeze
            raise

    async def settle(self, job: Job, entry: LedgerEntry, *, retired: bool = False) -> None:
        """Job and ledger in one transaction; `retired`: its namespace was deleted meanwhile."""
        row = tables.clone(job)
        row.state = JobState.SETTLED
        await self._do(lambda db: tables.settle(db, row, entry, retired=retired))

    async def supersede(self, old: Sequence[Job], new: Job) -> None:
        """`new` stands for `old` from now on, with their turn and age."""
        ids, row, now = [job.id for job in old], tables.clone(new), time.time()

        def change(db: sqlite3.Connection) -> None:
            tables.set_states(db, ids, JobState.SUPERSEDED, f"by job {row.id}", now)
            tables.save_job(db, row, now)

        await self._do(change)

    async def move(self, ids: Sequence[int], state: JobState, note: str | None = None) -> None:
        """Bring jobs to a state."""
        await self._do(lambda db: tables.set_states(db, ids, state, note, time.time()))

    async def open_jobs(self) -> list[Job]:
        """Everything that is owed, oldest first. Reads all rows: ask rarely."""
        found: list[Job] = await self._do(lambda db: list(tables.open_jobs(db)))
        return found

    async def find_ledger(self, key: FileKey) -> LedgerEntry | None:
        """What is proven remote for `key`."""
        found: LedgerEntry | None = await self._do(lambda db: ledger_rows.find_ledger(db, key))
        return found

    async def was_retired(self, key: FileKey) -> bool:
        """Whether what the store may have under the key is of a namespace that was deleted."""
        found: bool = await self._do(lambda db: ledger_rows.was_retired(db, key))
        return found

    async def ledger(self) -> list[LedgerEntry]:
        """Everything that is proven remote."""
        found: list[LedgerEntry] = await self._do(ledger_rows.ledger)
        return found

    async def ledger_page(self, after: str, limit: int, prefix: str = "") -> list[LedgerEntry]:
        """At most `limit` entries after the key `after`, in the order of their keys as text."""
        found: list[LedgerEntry] = await self._do(
            lambda db: ledger_rows.ledger_page(db, after, limit, prefix)
        )
        return found

    async def note_found(self, entries: Sequence[LedgerEntry]) -> None:
        """The store has these files, and nobody here knew; what is known stays as it is."""
        await self._do(lambda db: ledger_rows.note_found(db, entries))

    async def ledger_totals(self) -> tuple[int, int]:
        """(files, bytes) that are proven remote. Reads the whole ledger: ask rarely."""
        found: tuple[int, int] = await self._do(ledger_rows.ledger_totals)
        return found

    async def find_event(self, seq: int) -> EventRow | None:
        """One event by its row."""
        found: EventRow | None = await self._do(lambda db: tables.find_event(db, seq))
        return found

    async def find_event_ids(
        self, event_ids: Sequence[bytes], *, up_to: int
    ) -> dict[bytes, tuple[int, int | None]]:
        """Event id → (row, answer), of events in the rows up to `up_to`. Reads all: ask rarely."""
        found: dict[bytes, tuple[int, int | None]] = await self._do(
            lambda db: tables.find_event_ids(db, event_ids, up_to)
        )
        return found

    async def deleted_namespaces(self) -> list[str]:
        """Names under which the store has files of deleted namespaces only."""
        found: list[str] = await self._do(ledger_rows.deleted_namespaces)
        return found

    async def retired(self) -> dict[FileKey, bytes]:
        """Files of deleted namespaces that the store still has, and their digests there."""
        found: dict[FileKey, bytes] = await self._do(ledger_rows.retired)
        return found

    async def adopt(
        self, entries: Sequence[LedgerEntry], *, seen: Mapping[FileKey, bytes] | None = None
    ) -> None:
        """Take over what the store has, whoever stored it (a restore, a lost journal).

        `seen`: the digests that the ledger had before the store was looked at; what was stored since
        then stays as it is.
        """
        await self._do(lambda db: ledger_rows.adopt(db, entries, seen))

    async def adopt_retired(self, stale: Mapping[FileKey, bytes]) -> None:
        """Take over what the store has of deleted namespaces; what is known stays as it is."""
        await self._do(lambda db: ledger_rows.adopt_retired(db, stale, time.time()))

    async def disown(self, found: Mapping[FileKey, bytes]) -> None:
        """The store has these files, with these digests, and they are nobody's; what is ours stays."""
        await self._do(lambda db: ledger_rows.disown(db, found, time.time()))

    async def give_up(self, namespace: str, there: Sequence[LedgerEntry], *, blank: bool) -> None:
        """An administrator chose what is here (`blank`: nothing) over `there`, what is stored."""
        now = time.time()
        await self._do(lambda db: ledger_rows.give_up(db, namespace, there, now, blank=blank))

    async def given_up(self) -> list[LedgerEntry]:
        """What was given up and can still be had back, for nothing whole is stored in its place yet."""
        found: list[LedgerEntry] = await self._do(ledger_rows.given_up)
        return found

    async def begun_blank(self) -> set[str]:
        """Namespaces that somebody chose to begin anew, with nothing."""
        found: set[str] = await self._do(ledger_rows.begun_blank)
        return found

    async def adopt_given_up(self, entries: Sequence[LedgerEntry]) -> None:
        """Take over what another frontend gave up; what is known of a namespace stays as it is."""
        await self._do(lambda db: ledger_rows.adopt_given_up(db, entries, time.time()))

    async def note_holes(self, keys: Collection[FileKey], *, spared: bool = False) -> None:
        """These data files were given up: what is stored may point into them. Lasts until one is stored
        whole, or its namespace is deleted. `spared`: the ledger has them, but the store has lost them.
        """
        if keys:
            await self._do(lambda db: ledger_rows.note_holes(db, keys, spared=spared))

    async def holes(self) -> list[FileKey]:
        """Data files that were given up and were not stored whole since."""
        found: list[FileKey] = await self._do(ledger_rows.holes)
        return found

    async def retire(self, namespace: str) -> None:
        """The namespace was deleted: its name may be used again for other content."""
        await self._do(lambda db: ledger_rows.retire(db, namespace, time.time()))

    async def withdraw(self, namespace: str, ids: Sequence[int], note: str) -> None:
        """The namespace was deleted: what is owed to it and what is proven of it, in one transaction.

        A put that was under way may take effect after a crash: between the two, the ledger would say of
        a live file what the store does not have any more.
        """

        def change(db: sqlite3.Connection) -> None:
            now = time.time()
            tables.set_states(db, ids, JobState.WITHDRAWN, note, now)
            ledger_rows.retire(db, namespace, now)

        await self._do(change)

    async def retire_file(self, key: FileKey) -> None:
        """The namespace was deleted while this file was stored."""
        await self._do(lambda db: ledger_rows.retire_file(db, key, time.time()))

    async def forget(self, keys: Sequence[FileKey]) -> None:
        """The store has lost these files, and they are here: what was proven of them counts no more."""
        await self._do(lambda db: ledger_rows.forget(db, keys))

    async def meta(self, key: str) -> object:
        """A small fact, None where nothing is remembered."""
        return await self._do(lambda db: tables.get_meta(db).get(key))

    async def set_meta(self, key: str, value: object) -> None:
        """Remember a small fact (JSON); None forgets it."""
        await self._do(lambda db: tables.set_meta(db, key, value))

    async def prune(
        self, *, before: float, open_events: frozenset[int], keep_events: int = 0
    ) -> bool:
        """Forget the settled rows of one window of ids that are older than `before` (Unix seconds),
        but for the newest `keep_events` events.

        Returns whether there is another window: call it until there is none, which is one pass; the
        next call begins a new one.
        """
        high = max(self._event_seq, self._job_id)
        marks = [self._event_seq, self._job_id]
        up_to = self._event_seq - keep_events

        def change(db: sqlite3.Connection) -> int | None:
            low = tables.next_id(db, self._prune_from)
            if low is None or low > high:
                return None
            window = (low - 1, low - 1 + PRUNE_WINDOW)
            if tables.prune(
                db, before=before, open_events=open_events, window=window, events_up_to=up_to
            ):
                # Row ids are never used twice: the order of acknowledgement is the order of ids.
                tables.set_meta(db, "high_water", marks)
            return window[1]

        reached: int | None = await self._do(change)
        more = reached is not None and reached < high
        self._prune_from = reached if more and reached is not None else 0
        return more

    async def aclose(self) -> None:
        """Finish what was handed over, checkpoint, close. Idempotent."""
        self._commits.close()
        self._db.close()

    # -- how it is done ------------------------------------------------------------------------

    def _ended(self, error: str | None) -> None:
        self.last_error = error
        self.had_errors |= error is not None

    def _number(self, jobs: Sequence[Job], seq: int) -> None:
        for job in jobs:
            self._job_id += 1
            job.id = self._job_id
            job.turn = job.turn or job.id
            job.begun = job.begun or self.begin()
            job.event = seq

    def _insert(
        self, events: tuple[tables.EventValues, ...], jobs: Sequence[Job]
    ) -> asyncio.Future[Any]:
        now = time.time()
        rows = tuple(tables.job_values(job, now) for job in jobs)
        return self._commits.insert(events, rows, _contents(jobs))


def _contents(jobs: Sequence[Job]) -> tuple[tables.SnapshotValues, ...]:
    """The small snapshots of these jobs."""
    return tuple((job.id, job.content) for job in jobs if job.content is not None)


def _taken(jobs: Sequence[Job]) -> None:
    """Their small snapshots are durable: no need to hold them in memory."""
    for job in jobs:
        job.content = None
