"""The statements: each function is one change or one question on an open connection.

No transaction is opened or committed here; the journal does that around a batch.
"""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Iterator, Sequence

from hookd.files import FileKey
from hookd.journal.records import (
    OPEN_STATES,
    EventRow,
    Job,
    JobState,
    LedgerEntry,
    Outcome,
)

_JOB_COLUMNS = (
    "id, event, key, state, turn, since, staged, freeze, size_bytes, digest, sealed, needs,"
    " needs_bytes, ask_first, attempts, error_class, error, begun"
)

EventValues = tuple[object, ...]
JobValues = tuple[object, ...]
SnapshotValues = tuple[int, bytes]


_CHUNKS = (64, 16, 4, 1)
"""Rows in one INSERT: sqlite3 gives up the GIL at each statement, so fewer statements cost less."""


def event_values(seq: int, row: EventRow) -> EventValues:
    """The columns of one event, in the order of the table."""
    return (
        seq,
        row.event_id,
        json.dumps(row.argv),
        row.cwd.encode("utf-8", "backslashreplace").decode(),
        row.received_at,
        row.origin,
        row.outcome._value_,
        row.note,
        row.answer,
    )


def job_values(job: Job, now: float) -> JobValues:
    """The columns of one job, in the order of the table; `now` is when it was touched."""
    *columns, begun = _job_row(job)
    return (*columns, now, begun)


def insert(
    db: sqlite3.Connection,
    events: Sequence[EventValues],
    jobs: Sequence[JobValues],
    snapshots: Sequence[SnapshotValues] = (),
) -> None:
    """Insert many rows with few statements."""
    if snapshots:
        db.executemany("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", snapshots)
    for table, columns, rows in (("events", 9, events), ("jobs", 19, jobs)):
        start = 0
        for size in _CHUNKS:
            row = "(" + ", ".join("?" * columns) + ")"
            statement = f"INSERT INTO {table} VALUES {', '.join([row] * size)}"
            while len(rows) - start >= size:
                chunk = rows[start : start + size]
                db.execute(statement, [value for values in chunk for value in values])
                start += size


def set_answer(db: sqlite3.Connection, seq: int, answer: int) -> None:
    """Record the exit code that a blocking event was answered with."""
    db.execute("UPDATE events SET answer = ? WHERE seq = ?", (answer, seq))


def save_job(db: sqlite3.Connection, job: Job, now: float) -> None:
    """Write every column of a job that is open in the table. What has ended (withdrawn while it ran, or
    settled in the batch before) stays as it is: an older picture of it would make it owed again.
    """
    assignments = ", ".join(f"{name.strip()} = ?" for name in _JOB_COLUMNS.split(",")[1:])
    db.execute(
        f"UPDATE jobs SET {assignments}, updated_at = ? WHERE id = ?"
        " AND state IN ('pending', 'running', 'quarantined')",
        (*_job_row(job)[1:], now, job.id),
    )


def drop_snapshots(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """The jobs are open no more."""
    db.executemany("DELETE FROM snapshots WHERE job = ?", [(job_id,) for job_id in ids])


def snapshots(db: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    """(path below the staging folder, content) of every small snapshot of an open job."""
    yield from db.execute(
        "SELECT jobs.staged, snapshots.content FROM snapshots JOIN jobs ON jobs.id = snapshots.job"
        " WHERE jobs.staged IS NOT NULL"
        " AND jobs.state IN ('pending', 'running', 'quarantined')"
    )


def set_states(
    db: sqlite3.Connection, ids: Sequence[int], state: JobState, note: str | None, now: float
) -> None:
    """Move jobs to a state, with a note where there is one."""
    db.executemany(
        "UPDATE jobs SET state = ?, error = coalesce(?, error), updated_at = ? WHERE id = ?",
        [(state.value, note, now, job_id) for job_id in ids],
    )
    if state not in OPEN_STATES:
        drop_snapshots(db, ids)


def settle(db: sqlite3.Connection, job: Job, entry: LedgerEntry, *, retired: bool = False) -> None:
    """The job is done and the ledger knows it: one transaction, one truth."""
    drop_snapshots(db, [job.id])
    save_job(db, job, entry.stored_at)
    db.execute(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET size_bytes = excluded.size_bytes,"
        " digest = excluded.digest, stored_at = excluded.stored_at, sealed = excluded.sealed,"
        " job = excluded.job, retired_at = excluded.retired_at, begun = excluded.begun"
        " WHERE excluded.begun >= ledger.begun",
        (
            str(entry.key),
            entry.size_bytes,
            entry.digest,
            entry.stored_at,
            int(entry.sealed),
            job.id,
            entry.stored_at if retired else None,
            entry.begun,
        ),
    )


def open_jobs(db: sqlite3.Connection) -> Iterator[Job]:
    """Every job that is still owed, oldest first."""
    for row in db.execute(
        f"SELECT {_JOB_COLUMNS} FROM jobs"
        " WHERE state IN ('pending', 'running', 'quarantined') ORDER BY id"
    ):
        yield Job(
            id=row[0],
            event=row[1],
            key=FileKey.parse(row[2]),
            state=JobState(row[3]),
            turn=row[4] or row[0],
            since=row[5],
            staged=row[6],
            freeze=bool(row[7]),
            size_bytes=row[8],
            digest=row[9],
            sealed=bool(row[10]),
            needs=row[11],
            needs_bytes=row[12],
            ask_first=bool(row[13]),
            attempts=row[14],
            error_class=row[15],
            error=row[16],
            begun=row[17],
        )


def recent_events(db: sqlite3.Connection, most: int) -> list[tuple[bytes, int, int | None]]:
    """(event id, row, answer) of the newest events, oldest first; by their rows, for a clock may jump."""
    found = db.execute(
        "SELECT event_id, seq, answer FROM events ORDER BY seq DESC LIMIT ?", (most,)
    ).fetchall()
    found.reverse()
    return found


def find_event_ids(
    db: sqlite3.Connection, event_ids: Sequence[bytes], up_to: int
) -> dict[bytes, tuple[int, int | None]]:
    """Event id → (row, answer), of events in the rows up to `up_to`: reads all, there is no index."""
    places = ", ".join("?" * len(event_ids))
    rows = db.execute(
        f"SELECT event_id, seq, answer FROM events WHERE seq <= ? AND event_id IN ({places})",
        (up_to, *event_ids),
    )
    return {event_id: (seq, answer) for event_id, seq, answer in rows}


def find_event(db: sqlite3.Connection, seq: int) -> EventRow | None:
    """One event by its row id."""
    row = db.execute(
        "SELECT event_id, argv, cwd, received_at, origin, outcome, note, answer"
        " FROM events WHERE seq = ?",
        (seq,),
    ).fetchone()
    if row is None:
        return None
    return EventRow(
        event_id=row[0],
        argv=tuple(json.loads(row[1])),
        cwd=row[2],
        received_at=row[3],
        origin=row[4],
        outcome=Outcome(row[5]),
        note=row[6],
        answer=row[7],
    )


def get_meta(db: sqlite3.Connection) -> dict[str, object]:
    """Every small fact."""
    return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}


def set_meta(db: sqlite3.Connection, key: str, value: object) -> None:
    """Remember one small fact; None forgets it."""
    if value is None:
        db.execute("DELETE FROM meta WHERE key = ?", (key,))
    else:
        db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, json.dumps(value)),
        )


def next_id(db: sqlite3.Connection, after: int) -> int | None:
    """The lowest row id of an event or a job beyond `after`; None: there is none."""
    found = [
        db.execute("SELECT min(seq) FROM events WHERE seq > ?", (after,)).fetchone()[0],
        db.execute("SELECT min(id) FROM jobs WHERE id > ?", (after,)).fetchone()[0],
    ]
    return min((number for number in found if number is not None), default=None)


def prune(
    db: sqlite3.Connection,
    *,
    before: float,
    open_events: frozenset[int],
    window: tuple[int, int],
    events_up_to: int,
) -> int:
    """Forget settled rows last touched before `before`, in the row-id window (low, high]; of events only
    the rows up to `events_up_to`.

    Returns how many rows that were.
    """
    low, high = window
    jobs = db.execute(
        "DELETE FROM jobs WHERE id > ? AND id <= ? AND updated_at < ?"
        " AND state IN ('settled', 'superseded', 'withdrawn')",
        (low, high, before),
    ).rowcount
    seqs = [
        (seq,)
        for (seq,) in db.execute(
            "SELECT seq FROM events WHERE seq > ? AND seq <= ? AND received_at < ?",
            (low, min(high, events_up_to), before),
        )
        if seq not in open_events
    ]
    db.executemany("DELETE FROM events WHERE seq = ?", seqs)
    return jobs + len(seqs)


def last_ids(db: sqlite3.Connection) -> tuple[int, int]:
    """The highest event row and job row ever used (pruned ones may leave lower numbers free)."""
    meta = get_meta(db).get("high_water")
    high = meta if isinstance(meta, list) else [0, 0]
    event = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
    job = db.execute("SELECT coalesce(max(id), 0) FROM jobs").fetchone()[0]
    proven = db.execute("SELECT coalesce(max(job), 0) FROM ledger").fetchone()[0]
    return max(event, int(high[0])), max(job, proven, int(high[1]))


def last_begun(db: sqlite3.Connection) -> int:
    """The highest `begun` of any content that is owed or proven."""
    [(found,)] = db.execute(
        "SELECT max((SELECT coalesce(max(begun), 0) FROM jobs),"
        " (SELECT coalesce(max(begun), 0) FROM ledger))"
    )
    return int(found)


def count_by_state(db: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """State → (jobs, bytes), for a daemon that is not running."""
    rows = db.execute(
        "SELECT state, count(*), coalesce(sum(size_bytes), 0) FROM jobs GROUP BY state"
    )
    return {state: (count, size) for state, count, size in rows}


def _job_row(job: Job) -> tuple[object, ...]:
    return (
        job.id,
        job.event,
        str(job.key),
        job.state._value_,  # not .value: a Python call for each row
        job.turn,
        job.since,
        job.staged,
        int(job.freeze),
        job.size_bytes,
        job.digest,
        int(job.sealed),
        job.needs,
        job.needs_bytes,
        int(job.ask_first),
        job.attempts,
        job.error_class,
        job.error,
        job.begun,
    )


def clone(job: Job) -> Job:
    """A copy that another thread may read while the original goes on changing."""
    return copy.copy(job)


def running_to_pending(db: sqlite3.Connection) -> None:
    """At the start: what a dead process was working on is to be done again.

    Raises sqlite3.OperationalError with the disk full.
    """
    db.execute(
        "UPDATE jobs SET state = ? WHERE state = ?",
        (JobState.PENDING.value, JobState.RUNNING.value),
    )
