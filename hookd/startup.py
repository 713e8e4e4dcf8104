"""Stage startup: what the journal says, and what must be said before anything runs.

In: the journal's path, the configuration; out: an open database and what it holds (`Loaded`), lines for
an administrator. A damaged journal is moved aside, never removed; a store that is not the one that the
ledger speaks of is refused.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from hookd.config import Config
from hookd.errors import Exit, JournalCorrupt, JournalError, JournalUnavailable, UserError
from hookd.intake.owner import Owner, claim
from hookd.journal import Job, JobState, Journal, LedgerEntry, connect, ledger_rows, tables
from hookd.log import get
from hookd.sockets import out_of_reach
from hookd.stores.base import Store

log = get("daemon")

FRESH = "fresh"
"""Meta key of a journal that has just been made."""

JOURNAL_ID = "journal_id"
"""Meta key of what a journal is known by in the mark of its spool."""


@runtime_checkable
class Arrives(Protocol):
    """A store that may not be there at the start."""

    identified: Callable[[str], Awaitable[None]] | None


@dataclass(slots=True)
class Loaded:
    """What the journal says at the start."""

    jobs: list[Job]
    events: list[tuple[bytes, int, int | None]]
    ledger: list[LedgerEntry]
    meta: dict[str, object]
    blank: bool
    """Whether the journal was made where none was, or where one was lost: it knows of no snapshot that
    lies there. Durable until all parts stand, for a start that dies before that.
    """


def open_journal(path: Path) -> tuple[sqlite3.Connection, str | None]:
    """The database, and where a damaged one was moved to. Raises UserError."""
    fresh = not path.exists() or not path.stat().st_size
    if fresh and _has_log(path):
        # SQLite removes the log of a database that is empty, and with it perhaps the newest commits.
        aside = _move_aside(path)
        log.error("the journal is gone, its log is not: rebuilding", kept_at=str(aside))
        return _made(path), str(aside)
    try:
        db = _made(path) if fresh else connect(path, stretch=True)
    except JournalCorrupt as error:
        aside = _move_aside(path)
        log.error("the journal is damaged, rebuilding it", error=str(error), kept_at=str(aside))
        return _made(path), str(aside)
    except JournalUnavailable as error:
        raise UserError(f"journal.path: {error}", code=Exit.SOFTWARE) from error
    if fresh:
        log.info("new journal", path=str(path))
    return db, None


def _made(path: Path) -> sqlite3.Connection:
    db = connect(path, stretch=True)
    with contextlib.suppress(sqlite3.OperationalError):  # zdb can be served with the disk full
        tables.set_meta(db, FRESH, True)
    return db


def load(db: sqlite3.Connection, *, keep_s: float) -> Loaded:
    """Read all that is owed; what ran when the process died is pending again."""
    try:
        tables.running_to_pending(db)
    except sqlite3.OperationalError as error:  # zdb can be served with the journal's disk full
        log.error("the journal cannot be written", error=str(error))
    jobs = list(tables.open_jobs(db))
    for job in jobs:
        if job.state is JobState.RUNNING:
            job.state = JobState.PENDING
    meta = tables.get_meta(db)
    return Loaded(
        jobs=jobs,
        events=tables.recent_events(db, time.time() - keep_s),
        ledger=ledger_rows.ledger(db),
        meta=meta,
        blank=bool(meta.get(FRESH)),
    )


def claim_spool(config: Config, loaded: Loaded) -> None:
    """Mark the spool as that of this journal, which has an id from now on (in `loaded.meta`).

    Raises UserError for the spool of another journal. The id is committed later (`JOURNAL_ID`): if that
    never happens, the next start finds a journal without one, and a mark of its place. Nor is it
    where the mark cannot be written: the journal counts as new until it is.
    """
    known = loaded.meta.get(JOURNAL_ID)
    found = known if isinstance(known, str) else os.urandom(16).hex()
    loaded.meta[JOURNAL_ID] = found
    is_new = loaded.blank or found != known
    if not claim(config.hook.spool, Owner(config.journal.path, found), is_new=is_new):
        loaded.meta[JOURNAL_ID] = (
            known  # with an id that no mark has, it would be another journal then
        )


def store_id_of(store: Store) -> str | None:
    """Which store this is, None where it cannot tell. Only folders can be mistaken for another."""
    found: str | None = getattr(store, "store_id", None)
    return found or None


def known_store(meta: Mapping[str, object], ledger: Sequence[LedgerEntry]) -> str | None:
    """Which store holds what the ledger has, None where it has nothing or the store cannot tell."""
    known = meta.get("store_id")
    return known if isinstance(known, str) and ledger else None


def awaited(store: Store) -> str | None:
    """Why the store is not there yet, for one that is waited for; else None."""
    found: str | None = getattr(store, "awaited", None)
    return found


async def note_store(store: Store, journal: Journal) -> None:
    """Remember which store it is: now, or before anything is done in it once it is there."""

    async def keep(store_id: str | None) -> None:
        with contextlib.suppress(JournalError):  # a full disk is no reason not to start
            await journal.set_meta("store_id", store_id)

    if isinstance(store, Arrives):
        store.identified = keep
    if awaited(store) is None:
        await keep(store_id_of(store))


def recognise(
    store: Store, meta: Mapping[str, object], ledger: Sequence[LedgerEntry], journal: Path
) -> None:
    """Raises UserError for another store than the one that holds what the ledger has.

    The folder below a mount point that is not mounted looks like a new store: what went there would
    be settled, and be gone with the next mount.
    """
    known, found = known_store(meta, ledger), store_id_of(store)
    if known is not None and found != known and awaited(store) is None:
        raise UserError(
            f"store.{store.kind}: this is not the store that {journal} knows (its id is"
            f" {found or 'absent'}, expected {known}); mount that one, or move the journal away to"
            " store all anew",
            code=Exit.UNAVAILABLE,
        )


def kept_out(config: Config) -> list[str]:
    """A line for each of `hook.allow_users` that folders keep from what it was allowed; blocking."""
    lines = []
    socket, spool = config.hook.socket, config.hook.spool
    for user in config.hook.allow_users:
        if folder := out_of_reach(socket.parent, user, os.X_OK):
            lines.append(
                f"hook.allow_users: {user} cannot reach {socket}: {folder} keeps it out;"
                f" `chmod o+x {folder}` lets it through"
            )
        if folder := out_of_reach(spool, user, os.W_OK | os.X_OK):
            lines.append(
                f"hook.allow_users: shims of {user} cannot spool: {folder} keeps them out; while hookd"
                " is away their events are kept nowhere (exit 111). Run zdb as root or as hookd's user"
            )
    return lines


def texts(meta: dict[str, object], name: str) -> dict[str, str]:
    """A small fact that is a table of texts; empty where it is none."""
    found = meta.get(name)
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _has_log(path: Path) -> bool:
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _move_aside(path: Path) -> Path:
    """The damaged database keeps its parts together under another name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}-{os.getpid()}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
