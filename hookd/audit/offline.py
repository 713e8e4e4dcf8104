"""`hookd verify` without a daemon: on a copy of the journal, and on the store as it is. Changes nothing.

The journal's lock is held (shared) while its files are copied, and never while another holds it: a daemon
has then begun to write. After that a daemon may start any moment and is not disturbed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from hookd import manifest, scan, zdb
from hookd.audit.run import Run, Scope
from hookd.audit.world import in_quarantine
from hookd.config import Config
from hookd.errors import Exit, JournalCorrupt, JournalUnavailable, StoreError, UserError
from hookd.files import FileKey, Roots
from hookd.identity import identity_of
from hookd.journal import Job, LedgerEntry, connect, ledger_rows, tables
from hookd.log import register_secret
from hookd.scheduler import Scheduler
from hookd.snapshot import hash_live
from hookd.stores import attach_store
from hookd.stores.base import Store

PREFIX = "verify-"
_FOLDER = re.compile(rf"{PREFIX}(\d+)-\w+", re.ASCII)

PATIENCE_S = (1.0, 3.0)
LOOK_EVERY_S = 0.2


@dataclass(kw_only=True)
class OfflineWorld:
    """`World` over a copy of the journal. What it would queue it only counts."""

    roots: Roots
    store: Store
    db: sqlite3.Connection
    scheduler: Scheduler
    skip: Collection[str]
    held: Mapping[str, str]
    private: Path
    limit_s: Callable[[int], float]
    zdb_address: str | None
    repairs: bool = False
    patience_s: Sequence[float] = PATIENCE_S

    def time_limit_s(self, size_bytes: int) -> float:
        """See `World`."""
        return self.limit_s(size_bytes)

    async def ours(self) -> bool:
        """See `World`."""
        found = await self.store.stat_record(manifest.NAME)
        ours = identity_of(tables.get_meta(self.db))
        return ours is not None and ours.named and found is not None and found.hex() in ours.digests

    def undecided(self) -> bool:
        """See `World`."""
        return False

    def covers(self, key: FileKey) -> bool:
        """See `World`."""
        return self.scheduler.covers(key)

    def owed(self) -> int:
        """See `World`."""
        return len(self.scheduler)

    def quarantined(self) -> Sequence[tuple[FileKey, str]]:
        """See `World`."""
        return in_quarantine(self.scheduler)

    async def heard(self) -> None:
        """See `World`: nobody takes in what is announced."""

    async def scan(self) -> Sequence[FileKey]:
        """See `World`. The store is asked for each: a lost journal knows of none."""
        life = zdb.ZdbLife(address=self.zdb_address)
        running = await anyio.to_thread.run_sync(
            zdb.runs, life, (self.roots.index, self.roots.data)
        )
        ledger = {entry.key: entry for entry in ledger_rows.ledger(self.db)}
        jobs = await anyio.to_thread.run_sync(
            partial(
                scan.unannounced,
                self.roots,
                ledger,
                self.scheduler,
                skip={*self.skip, *self.held},
                with_active=not running,
            )
        )
        return [job.key for job in jobs if not await self._is_stored(job.key)]

    async def _is_stored(self, key: FileKey) -> bool:
        there = await self.store.stat(key)
        if there is None:
            return False
        try:
            digest, _ = await anyio.to_thread.run_sync(hash_live, self.roots.path(key))
        except StoreError:
            return True  # gone meanwhile
        return there.digest == digest

    async def totals(self) -> tuple[int, int]:
        """See `World`."""
        return ledger_rows.ledger_totals(self.db)

    async def page(self, after: str, limit: int, prefix: str) -> list[LedgerEntry]:
        """See `World`."""
        return ledger_rows.ledger_page(self.db, after, limit, prefix)

    async def find(self, key: FileKey) -> LedgerEntry | None:
        """See `World`."""
        return ledger_rows.find_ledger(self.db, key)

    async def queue(self, job: Job) -> None:
        """See `World`: the daemon's own audit finds it again."""

    async def note(self, entries: Sequence[LedgerEntry]) -> None:
        """See `World`: into the copy."""
        ledger_rows.note_found(self.db, entries)

    async def stale(self, key: FileKey) -> bytes | None:
        """See `World`."""
        return ledger_rows.retired(self.db).get(key)

    async def disown(self, found: Mapping[FileKey, bytes]) -> None:
        """See `World`: the daemon's own audit finds it again."""

    async def turn(self) -> None:
        """See `World`: nobody is in the way here."""
        await anyio.lowlevel.checkpoint()


def verify(config: Config, scope: Scope, show: Callable[[Run], None]) -> Run:
    """One run, `show` called now and then while it goes on. Blocking.

    Raises UserError: a daemon has the journal, the store cannot be reached or is another one, the journal
    is damaged. KeyboardInterrupt leaves nothing behind.
    """
    for secret in config.secrets():
        register_secret(secret)
    roots = Roots(config.zdb.index, config.zdb.data)
    with private_folder(config.staging_path) as private:
        place = private / "journal.db"
        _copy(config.journal.path, place)
        try:
            db = connect(place)
        except (JournalCorrupt, JournalUnavailable) as error:
            reason = str(error).replace(str(place), str(config.journal.path))
            raise UserError(
                f"the journal cannot be read ({reason}); the daemon rebuilds a damaged one at its start"
            ) from error
        with contextlib.closing(db):
            meta = tables.get_meta(db)
            store = attach_store(config, roots, private)
            _recognise(store, meta, config)
            held = meta.get("held")
            world = OfflineWorld(
                roots=roots,
                store=store,
                db=db,
                scheduler=_scheduler(db),
                skip=frozenset(config.zdb.skip_namespaces),
                held=held if isinstance(held, dict) else {},
                private=private,
                limit_s=config.store.time_limit_s,
                zdb_address=config.zdb.address,
            )
            run = Run(world, scope)
            anyio.run(_execute, run, show)
            return run


async def _execute(run: Run, show: Callable[[Run], None]) -> None:
    try:
        async with anyio.create_task_group() as group:

            async def look() -> None:
                while True:
                    show(run)
                    await anyio.sleep(LOOK_EVERY_S)

            group.start_soon(look)
            await run.execute()
            group.cancel_scope.cancel()
    finally:
        await run.world.store.aclose()


def _scheduler(db: sqlite3.Connection) -> Scheduler:
    scheduler = Scheduler()
    for job in tables.open_jobs(db):
        scheduler.add(job, 0.0)
    return scheduler


def _recognise(store: Store, meta: Mapping[str, object], config: Config) -> None:
    found, known = getattr(store, "store_id", None), meta.get("store_id")
    if known is not None and found is not None and found != known:
        raise UserError(
            f"store.{store.kind}: this is not the store that {config.journal.path} knows (its id is"
            f" {found}, expected {known}); mount that one",
            code=Exit.UNAVAILABLE,
        )


@contextlib.contextmanager
def private_folder(staging: Path) -> Iterator[Path]:
    """Where snapshots are made: zstor sees it, and there is room. A daemon's start leaves it alone."""
    try:
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in os.listdir(staging):
            left = _FOLDER.fullmatch(name)
            if left and not Path(f"/proc/{left[1]}").exists():
                shutil.rmtree(staging / name, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=staging))
    except OSError as error:
        raise UserError(
            f"{staging}: {error.strerror}; run it as root or as the daemon's user", code=Exit.NOPERM
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(journal: Path, place: Path) -> None:
    """Database and log, as no daemon is writing them. Raises UserError."""
    lock = journal.with_name(journal.name + ".lock")
    with contextlib.ExitStack() as stack:
        try:
            handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(f"{lock}: {error.strerror}", code=Exit.NOPERM) from error
        else:
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"a daemon holds {journal}, but does not answer at its stats socket: it is"
                    " starting or stopping; ask it again in a moment, or name the socket with --socket",
                    code=Exit.UNAVAILABLE,
                ) from None
        for suffix in ("", "-wal"):
            try:
                shutil.copyfile(f"{journal}{suffix}", f"{place}{suffix}")
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UserError(f"{journal}{suffix}: {error.strerror}") from error
