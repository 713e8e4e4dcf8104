"""A file → an open, checked and migrated database, with a log long enough for fast commits. Blocking."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from hookd.errors import JournalCorrupt, JournalUnavailable, UserError
from hookd.journal.schema import NewerSchema, migrate

STRETCH_BYTES = 4_000_000
"""SQLite empties the log of itself at 1,000 pages of 4 KiB."""

STRETCH_NEEDS_BYTES = 64_000_000
"""Free room below which it is not worth it."""


def connect(path: Path, *, stretch: bool = False) -> sqlite3.Connection:
    """Open, check and migrate the database; `stretch` its log for faster commits. Blocking.

    Raises JournalCorrupt (move it aside), JournalUnavailable (disk full, permissions) and
    UserError for a database of a newer hookd.
    """
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=10)
    except sqlite3.Error as error:
        raise JournalUnavailable(f"{path}: {error}") from error
    try:
        # one owner: no lock calls around each commit, no shared memory file
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise JournalCorrupt(f"{path}: {verdict}")
        migrate(db)
        if stretch and shutil.disk_usage(path.parent).free >= STRETCH_NEEDS_BYTES:
            _stretch(db)
    except NewerSchema as error:
        db.close()
        raise UserError(f"{path}: {error}; start the newer hookd again") from error
    except sqlite3.OperationalError as error:
        db.close()
        if is_damage(error):
            raise JournalCorrupt(f"{path}: {error}") from error
        raise JournalUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        db.close()
        raise JournalCorrupt(f"{path}: {error}") from error
    except JournalCorrupt:
        db.close()
        raise
    return db


def _stretch(db: sqlite3.Connection) -> None:
    """Make the write-ahead log as long as it will get, once, at the start.

    A commit that overwrites is one data sync; one that makes the file longer is a commit of the file
    system as well: 0.2 ms against 0.6 ms (measured on ext4, more beside a zdb that writes).
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE stretch (content BLOB)")
        db.execute("INSERT INTO stretch VALUES (zeroblob(?))", (STRETCH_BYTES,))
        db.execute("DROP TABLE stretch")
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(RESTART)")
    except sqlite3.OperationalError as error:
        if is_damage(error):
            raise
        if db.in_transaction:  # no room for it: then commits are slower
            db.execute("ROLLBACK")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error of SQLite says that the file itself is bad."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_SCHEMA,
    )
