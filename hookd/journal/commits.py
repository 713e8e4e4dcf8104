"""Stage journal, its engine: changes into transactions, group commit.

In: changes that were handed over; out: a future for each, done once its change is on disk. Whatever was
handed over in one turn of the event loop goes into one transaction, so 64 connections cost one fsync.
The invariants:

- a future that has a result: it is on disk (WAL, `synchronous=FULL`);
- changes take effect in the order in which they were handed over;
- a change that failed is not half done: its batch is rolled back and the others are done again.

The transaction runs on the event loop itself, not in a thread. A thread was tried first: it and the
loop pass the GIL to and fro at every statement and system call, which doubled the time to an answer.
What it costs: while the disk syncs, nothing else moves. With a disk that hangs the daemon falls mute,
which is what shims need to see in order to spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hookd import faults
from hookd.errors import JournalCorrupt, JournalUnavailable
from hookd.journal import tables
from hookd.journal.connection import is_damage

MAX_BATCH = 512
"""Changes in one transaction: bounds the latency of the first of them."""

BUSY_COMMITS = 120
"""After so many commits the log is emptied behind their answers. SQLite does it inside of the commit that
makes it 1,000 pages long: 2 ms more on a quiet disk, every 170 of our commits (6 pages each)."""

IDLE_S = 0.5
IDLE_CHANGES = 256
"""After so many changes and so long a silence the log is emptied before it is due."""

Change = Callable[[sqlite3.Connection], Any]
"""What to do inside of a transaction; its result is the future's."""


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change | None
    """None: only rows to insert."""
    future: asyncio.Future[Any]
    events: tuple[tables.EventValues, ...] = ()
    jobs: tuple[tables.JobValues, ...] = ()
    snapshots: tuple[tables.SnapshotValues, ...] = ()
    result: Any = None
    error: BaseException | None = None


class Commits:
    """The transactions of one connection. Made on the event loop."""

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        on_broken: Callable[[Exception], None],
        ended: Callable[[str | None], None],
    ) -> None:
        """`on_broken` is called on the loop when the database turns out to be damaged; `ended` is told
        why a change failed, and None when one was committed.
        """
        self._db = db
        self._ended = ended
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._batch: list[_Waiting] = []
        self._closed = False
        self._changes = self._since = 0
        """Changes, and commits, since the log was emptied by us."""
        self._idle: asyncio.TimerHandle | None = None

    def insert(
        self,
        events: tuple[tables.EventValues, ...],
        jobs: tuple[tables.JobValues, ...],
        snapshots: tuple[tables.SnapshotValues, ...],
    ) -> asyncio.Future[Any]:
        """Rows to insert; those of one turn go together. Raises JournalUnavailable once it is closed."""
        future = self._loop.create_future()
        return self._hand_over(_Waiting(None, future, events, jobs, snapshots))

    def do(self, change: Change) -> asyncio.Future[Any]:
        """Any other change, or a question. Raises JournalUnavailable once it is closed."""
        return self._hand_over(_Waiting(change, self._loop.create_future()))

    def close(self) -> None:
        """Finish what was handed over, and empty the log; the connection is its owner's. Idempotent."""
        if self._closed:
            return
        while self._batch:
            self._flush()
        self._closed = True
        with contextlib.suppress(sqlite3.Error):  # the WAL stays and is read at the next start
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _hand_over(self, waiting: _Waiting) -> asyncio.Future[Any]:
        if self._closed:
            raise JournalUnavailable("the journal is closed")
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch.append(waiting)
        return waiting.future

    def _flush(self) -> None:
        """Commit what waits, at most MAX_BATCH of it, and tell its callers."""
        batch, self._batch = self._batch[:MAX_BATCH], self._batch[MAX_BATCH:]
        if self._batch:
            self._loop.call_soon(self._flush)
        if batch:
            self._commit(batch)
            _resolve(batch)
            self._changes += len(batch)
            self._since += 1
            if self._since < BUSY_COMMITS and self._changes < IDLE_CHANGES:
                return
            if self._idle is not None:
                self._idle.cancel()
            if self._since >= BUSY_COMMITS:
                self._since = 0
                self._loop.call_soon(
                    self._checkpoint
                )  # after those who were just told have answered
            else:
                self._idle = self._loop.call_later(IDLE_S, self._checkpoint)

    def _checkpoint(self) -> None:
        """Empty the log while nobody waits for it, so that it is not due in the middle of a hook."""
        self._idle, self._changes, self._since = None, 0, 0
        if not self._closed:
            with contextlib.suppress(sqlite3.Error):  # a commit will tell
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _commit(self, batch: list[_Waiting]) -> None:
        """All in one transaction; if one change fails, each in its own."""
        try:
            self._transact(batch)
        except Exception:
            for waiting in batch:
                try:
                    self._transact([waiting])
                except sqlite3.Error as error:
                    self._ended(str(error))
                    waiting.error = self._translate(error)
                except Exception as error:  # a fault of ours: its caller hears of it
                    waiting.error = error

    def _transact(self, batch: list[_Waiting]) -> None:
        db = self._db
        before = db.total_changes
        faults.point("commit-begin")
        db.execute("BEGIN IMMEDIATE")
        try:
            _apply(db, batch)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        faults.point("commit-done")
        if db.total_changes != before:  # one that only read says nothing of a full disk
            self._ended(None)

    def _translate(self, error: sqlite3.Error) -> Exception:
        if is_damage(error) or type(error) is sqlite3.DatabaseError:
            damage = JournalCorrupt(str(error))
            self._loop.call_soon(self._on_broken, damage)
            return damage
        return JournalUnavailable(str(error))


def _apply(db: sqlite3.Connection, batch: list[_Waiting]) -> None:
    """Every change in its order; inserts that follow each other go together."""
    events: list[tables.EventValues] = []
    jobs: list[tables.JobValues] = []
    snapshots: list[tables.SnapshotValues] = []
    for waiting in batch:
        if waiting.change is None:
            events.extend(waiting.events)
            jobs.extend(waiting.jobs)
            snapshots.extend(waiting.snapshots)
            continue
        if events or jobs:
            tables.insert(db, events, jobs, snapshots)
            events, jobs, snapshots = [], [], []
        waiting.result = waiting.change(db)
    if events or jobs:
        tables.insert(db, events, jobs, snapshots)


def _resolve(batch: list[_Waiting]) -> None:
    for waiting in batch:
        if waiting.future.done():  # its caller was cancelled
            continue
        if waiting.error is not None:
            waiting.future.set_exception(waiting.error)
        else:
            waiting.future.set_result(waiting.result)
