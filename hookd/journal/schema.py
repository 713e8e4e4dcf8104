"""The journal's tables: the reference of what is durable and of every state.

SQLite in WAL mode with `synchronous=FULL`: a transaction is on disk when its commit returns. One
process owns the database. No secondary index: rows are found by their row id, open
rows are held in memory and read once at the start, so a commit costs the same with a thousand rows
as with a million (a unique index on random event ids would dirty one page for every event).

    events 1 ── n jobs 1 ── 0..1 snapshots
    ledger: one row for a key          meta: small facts of the daemon

Life of a job row (`JobState`):

    pending ⇄ running → settled            ledger row written in the same transaction
       │         └────→ quarantined → pending (retry) | withdrawn (skip)
       ├─→ superseded                      by a newer snapshot of the same file
       └─→ withdrawn                       zdb deleted the namespace
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

_V1 = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL                 -- JSON
) WITHOUT ROWID;

CREATE TABLE events (
    seq         INTEGER PRIMARY KEY,    -- order of acknowledgement
    event_id    BLOB NOT NULL,          -- 16 bytes from the shim
    argv        TEXT NOT NULL,          -- JSON list; undecodable bytes as surrogate escapes
    cwd         TEXT NOT NULL,          -- zdb's working directory
    received_at REAL NOT NULL,          -- Unix seconds, for people
    origin      TEXT NOT NULL CHECK (origin IN ('socket', 'spool')),
    outcome     TEXT NOT NULL CHECK (outcome IN ('accepted', 'unknown', 'held', 'refused')),
    note        TEXT NOT NULL,          -- why it was refused
    answer      INTEGER                 -- exit code given; NULL while it is being worked on
);

CREATE TABLE jobs (
    id          INTEGER PRIMARY KEY,    -- order of acknowledgement
    event       INTEGER NOT NULL,       -- events.seq; 0: found by a scan
    key         TEXT NOT NULL,          -- index/NS/iN, data/NS/dN, index/NS/zdb-namespace
    state       TEXT NOT NULL CHECK (state IN
                ('pending', 'running', 'settled', 'superseded', 'quarantined', 'withdrawn')),
    turn        INTEGER NOT NULL,       -- place in the line; 0: its own id
    since       REAL NOT NULL,          -- Unix seconds: oldest unstored content it stands for
    staged      TEXT,                   -- snapshot below the staging folder; NULL: the live file
    freeze      INTEGER NOT NULL,       -- 1: freeze the live file before storing it
    size_bytes  INTEGER,
    digest      BLOB,                   -- BLAKE2b-128; NULL until the live file was read
    sealed      INTEGER NOT NULL,       -- 1: other content under this key is a conflict
    needs       INTEGER,                -- data files up to this number go first
    needs_bytes INTEGER NOT NULL,       -- ... and that one with at least this length
    ask_first   INTEGER NOT NULL,       -- 1: the store may have it already
    attempts    INTEGER NOT NULL,
    error_class TEXT,
    error       TEXT,
    updated_at  REAL NOT NULL           -- Unix seconds
);

CREATE TABLE snapshots (
    job     INTEGER PRIMARY KEY,        -- jobs.id, while that job is open
    content BLOB NOT NULL               -- a small snapshot; its copy in staging is never synced
);

CREATE TABLE ledger (
    key        TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    digest     BLOB NOT NULL,           -- BLAKE2b-128, compared with the store's own
    stored_at  REAL NOT NULL,           -- Unix seconds
    sealed     INTEGER NOT NULL,
    job        INTEGER NOT NULL,        -- jobs.id that proved it
    retired_at REAL                     -- the namespace was deleted then; the file is still remote
) WITHOUT ROWID;
"""

_V2 = """
-- When the reading of the content began, on a count that goes on over restarts: of two contents of a
-- file the one begun later is newer. One that was not read yet: when it was owed. Before, ids said it.
ALTER TABLE jobs ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET begun = id;
-- An older content never goes over this one. 0: found in the store, nobody here has read it.
ALTER TABLE ledger ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
UPDATE ledger SET begun = job;
"""

MIGRATIONS: Sequence[str] = (_V1, _V2)
"""Script k brings `user_version` k to k+1. Append only: released ones never change."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest version, each step in a transaction of its own.

    Raises sqlite3.DatabaseError; a database of a newer hookd is refused rather than guessed at.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise NewerSchema(version)
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        )


class NewerSchema(Exception):
    """The database was written by a newer hookd."""

    def __init__(self, version: int) -> None:
        super().__init__(f"schema version {version}, this hookd knows up to {len(MIGRATIONS)}")
