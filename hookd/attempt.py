"""Stage attempt: one job once: read (or freeze) its file, put it, and prove it by the store's checksum.

The invariants: nothing is proven but by comparing the store's own checksum with ours; nothing older,
shorter or blank goes over what is proven remote; every error leaves as a StoreError with a class.
What becomes of the job then is the dispatcher's business.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from hookd import faults
from hookd.damage import refuse_public, refuse_worse
from hookd.errors import (
    ChecksumMismatch,
    Conflict,
    JournalError,
    NamespaceHeld,
    NoRoom,
    PathRefused,
    SourceChanged,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.fence import Fenced
from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal import Job, Journal, LedgerEntry
from hookd.log import get
from hookd.needs import say_lost
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging, hash_live
from hookd.source import Postponed, Sources, is_blank
from hookd.stores.base import Remote, Store
from hookd.succession import NO_ROOM

log = get("attempt")

_NO_FILE = frozenset({errno.ELOOP, errno.EINVAL})
"""What freezing a symbolic link, a pipe or a folder in a file's place fails with."""


class Unannounced(Exception):
    """The index may point into sealed data files that are not remote, or follows index files that are
    not, and nobody has said so.
    """

    def __init__(self, keys: Sequence[FileKey]) -> None:
        super().__init__(", ".join(map(str, keys)))
        self.keys = keys


class Outdated(Exception):
    """Content that was read later, and is as long at least, has been stored already."""


class Attempts:
    """Stores files; `already_there` counts those that the store had before."""

    def __init__(
        self,
        *,
        journal: Journal,
        scheduler: Scheduler,
        store: Store,
        staging: Staging,
        roots: Roots,
        time_limit_s: Callable[[int], float],
        held: Callable[[str], str | None],
        guard: Callable[[], Awaitable[None]],
        forsaken: Callable[[Job], bool] = lambda job: False,
        chosen: Callable[[str], bool] = lambda namespace: False,
    ) -> None:
        """`time_limit_s` says how long a file of so many bytes may take; `held` tells why a namespace
        takes no stores; `guard` raises while nothing may be stored (`Fence`); `forsaken` tells whether a
        job may not store what it froze any more, `chosen` whether what is stored of a namespace was
        chosen, and comes back now. The scheduler is asked, and told only what was checked.
        """
        self._journal = journal
        self._scheduler = scheduler
        self._roots = roots
        self._store_to = store
        self._staging = staging
        self._time_limit_s = time_limit_s
        self._held = held
        self._guard = guard
        self._forsaken = forsaken
        self._chosen = chosen
        self._sources = Sources(
            journal=journal,
            scheduler=scheduler,
            staging=staging,
            roots=roots,
            held=held,
            proves_copies=store.proves_copies,
        )
        self._slots = anyio.Semaphore(store.concurrency)
        self.already_there = 0

    async def store(self, job: Job) -> LedgerEntry:
        """Bring one file into the store and prove it; what it proved, for the ledger.

        Raises StoreError (all that went wrong, in the store's terms), Postponed, Unannounced,
        Outdated, JournalError. Cancelled, the job is as it was or further, and can be done again.
        """
        try:
            return await self._store(job)
        except (JournalError, Postponed, Unannounced, Outdated):
            raise
        except Exception as error:
            raise _classified(job, error) from error

    async def _store(self, job: Job) -> LedgerEntry:
        known = await self._journal.find_ledger(job.key)
        if known is not None and known.begun > job.begun:
            if (job.size_bytes or 0) <= known.size_bytes or job.key.kind is Kind.NAMESPACE:
                raise Outdated
            job.begun = known.begun  # zdb's files only grow: the longer one is the newer one
        source = await self._sources.find(job, may_skip_hash=known is None)
        assert job.size_bytes is not None
        _refuse_older(job, known)
        self._refuse_another(job)
        if job.key.kind is Kind.INDEX:
            self._look_behind(job)
        async with self._slots:
            return await self._store_it(job, source, known)

    def _refuse_another(self, job: Job) -> None:
        """Raise Conflict where the namespace on disk ends before the one that is stored.

        zdb removes index files only with their namespace, whose deletion nobody has heard of then: what
        is longer than its predecessor's file would go over it, and the rest of that would stay. Of a
        disk that lost everything the snapshots are stored all the same.
        """
        newest = self._scheduler.newest_remote_index(job.key.namespace)
        if newest is None or job.key.kind is Kind.NAMESPACE or not self._sources.exists(job.key):
            return
        last = index_key(job.key.namespace, newest)
        if not self._sources.exists(last):
            detail = f"files up to {last.name} are stored already, but {last.name} is not here"
            raise Conflict("store", job.key, detail)

    def _look_behind(self, job: Job) -> None:
        """Raise Unannounced for data files up to `job.needs` that are longer here than remote and for
        older indexes that are in no line, and Conflict where the data file that it needs is shorter here.

        Data files only grow, and sealed ones do not: then what is remote is of another namespace of that
        name, whose deletion nobody has heard of, and the index would point into that. A sealed one that
        is longer here has a job, then, which conflicts, and holds the index back.
        """
        if job.needs is not None:
            newest = data_key(job.key.namespace, job.needs)
            here, there = self._sources.length(newest), self._scheduler.remote_bytes(newest)
            if 0 < here < there:
                detail = f"{newest.name} has {here} bytes here, but {there} are stored already"
                raise Conflict("store", job.key, detail)
            if 0 < here <= there < job.needs_bytes:  # sealed, or it would not have come here
                say_lost(self._roots.path(newest), there, job.needs_bytes)
        behind = [
            key
            for key, known_bytes in self._scheduler.unchecked(job)
            if self._sources.length(key) > known_bytes
        ]
        self._refuse_beside_another(job)
        if behind:
            raise Unannounced([key for key in behind if not self._scheduler.covers(key)])
        if job.needs is not None:
            self._scheduler.checked(job)
        # zdb died between making iN and saying so: without i(N-1) nothing of iN is served after a restore
        gaps = [
            key
            for key in self._scheduler.indexes_before(job)
            if not self._scheduler.covers(key) and self._sources.length(key)
        ]
        if gaps:
            raise Unannounced(gaps)
        if self._scheduler.waits_for(job) is not None:  # what joined since it began, and goes first
            raise Postponed

    def _refuse_beside_another(self, job: Job) -> None:
        """Raise Conflict for an index of which a data file was given up here, but is sealed in the store,
        and shorter: a restore would take that for the one that it points into.
        """
        given_up, _ = self._scheduler.given_up(job.key.namespace)
        for number in sorted(given_up):
            key = data_key(job.key.namespace, number)
            if job.key.number <= number <= (job.needs or 0) and self._scheduler.is_sealed(key):
                here, there = self._sources.length(key), self._scheduler.remote_bytes(key)
                if here > there:
                    detail = (
                        f"{key.name} has {here} bytes here and was given up, but another of {there}"
                    )
                    raise Conflict("store", job.key, f"{detail} bytes is stored already")

    async def _store_it(self, job: Job, source: Path, known: LedgerEntry | None) -> LedgerEntry:
        """Put, ask, compare; bounded in time."""
        assert job.size_bytes is not None
        limit_s = self._time_limit_s(job.size_bytes)
        try:
            with anyio.fail_after(limit_s):
                await (
                    self._guard()
                )  # before the question: nobody else changes the answer afterwards
                if job.ask_first or is_blank(job) or (known and known.digest == job.digest):
                    there = await self._store_to.stat(job.key)
                    if _same(job, there):
                        self.already_there += 1
                        return self._entry(job)
                    if there is not None and is_blank(job):
                        await self._refuse_blank(job)
                if job.key.kind is not Kind.DATA and await self._goes_over(job):
                    # what was proven and is not there any more was stored over by another
                    unannounced = job.ask_first and not (known and known.digest == job.digest)
                    to, private = self._store_to, self._staging.folder
                    if job.key.kind is Kind.INDEX:
                        await refuse_worse(job.key, source, to, private, unannounced=unannounced)
                    elif unannounced:
                        await refuse_public(job.key, source, to, private)
                    await self._guard()  # reading took a while: is the store still ours?
                # perhaps since it has begun: the guard saw that the store has later files
                if self._forsaken(job):
                    raise Postponed
                if self._chosen(job.key.namespace):
                    detail = "what is stored was chosen, and comes back first"
                    raise StoreTemporary("store", job.key, detail)
                # perhaps since the guard has looked; a snapshot made before is of good files
                if job.staged is None and (reason := self._held(job.key.namespace)):
                    raise NamespaceHeld("store", job.key, reason)
                faults.point("put-begin")
                await self._store_to.put(job.key, source, job.digest)
                faults.point("put-done")
                remote = await self._store_to.stat(job.key)
        except TimeoutError:
            raise StoreUnreachable("store", job.key, f"no answer within {limit_s:.0f} s") from None
        await self._prove(job, source, remote)
        await self._still_ours(job)
        return self._entry(job)

    async def _still_ours(self, job: Job) -> None:
        """A put that took long: nobody else took the store over meanwhile. Raises StoreError.

        Else this file went over theirs. Theirs is stored again by their audit; here it is said, loudly,
        and the job is not settled.
        """
        try:
            await self._guard()
        except Fenced as error:
            log.error("stored over another frontend's", file=str(job.key))
            detail = (
                f"it was stored after another frontend had taken the store over; {error.detail}"
            )
            raise Fenced("store", job.key, detail) from error

    async def _refuse_blank(self, job: Job) -> None:
        """A file with nothing but its header never replaces what is stored (promise 4).

        zdb makes such files where it finds none. Only a namespace that it deleted through its own
        command may begin anew under the same name.
        """
        if not await self._journal.was_retired(job.key):
            raise Conflict("store", job.key, "it is blank here, but the store has content for it")

    async def _goes_over(self, job: Job) -> bool:
        """Whether the store may have content for it that is worth keeping. The ledger is asked anew: the
        guard may have compared the store with what is here, and learnt what it has.
        """
        if await self._journal.find_ledger(job.key) is not None:
            return True
        return job.ask_first and not await self._journal.was_retired(job.key)

    async def _prove(self, job: Job, source: Path, remote: Remote | None) -> None:
        """The store's own words must be ours, and the live file still what was stored."""
        if remote is None:
            raise ChecksumMismatch("verify", job.key, "stored, but the store says it has nothing")
        if job.digest is None:
            job.digest = remote.digest  # of bytes that the store has compared with the source
        if not _same(job, remote):
            assert job.digest is not None
            detail = f"the store has {remote.digest.hex()}, expected {job.digest.hex()}"
            if job.staged is None:
                digest, _ = await anyio.to_thread.run_sync(
                    hash_live, source, abandon_on_cancel=True
                )
                if digest != job.digest:
                    raise SourceChanged("verify", job.key, f"the file changed; {detail}")
            raise ChecksumMismatch("verify", job.key, detail)
        if job.staged is None:
            try:
                size = os.stat(source).st_size
            except FileNotFoundError:
                size = job.size_bytes or 0  # gone after it was stored: what is stored was whole
            if size != job.size_bytes:
                raise SourceChanged(
                    "verify", job.key, f"it has {size} bytes now, {job.size_bytes} were stored"
                )
        faults.point("verified")

    def _entry(self, job: Job) -> LedgerEntry:
        assert job.digest is not None and job.size_bytes is not None
        return LedgerEntry(
            key=job.key,
            size_bytes=job.size_bytes,
            digest=job.digest,
            stored_at=time.time(),
            sealed=job.sealed,
            begun=job.begun,
        )


def _refuse_older(job: Job, known: LedgerEntry | None) -> None:
    """zdb's files only grow: a shorter or another one under a proven name is not a newer one."""
    if known is None or known.digest == job.digest or job.key.kind is Kind.NAMESPACE:
        return
    assert job.digest is not None and job.size_bytes is not None  # hashed, because it is known
    if known.sealed:
        detail = f"sealed and stored as {known.digest.hex()}, but is {job.digest.hex()} now"
        raise Conflict("store", job.key, detail)
    if job.size_bytes < known.size_bytes:
        detail = f"it has {job.size_bytes} bytes, but {known.size_bytes} are stored already"
        raise Conflict("store", job.key, detail)


def _same(job: Job, remote: Remote | None) -> bool:
    return (
        remote is not None
        and remote.digest == job.digest
        and remote.size_bytes in (None, job.size_bytes)
    )


def _classified(job: Job, error: Exception) -> StoreError:
    """Local trouble in the terms of the store's errors."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, PathRefused):
        return StorePermanent("read", job.key, error.reason)
    if isinstance(error, NoRoom):
        failure = StoreTemporary("freeze", job.key, str(error))
        failure.error_class = NO_ROOM
        return failure
    if not isinstance(error, OSError):
        # A fault of ours in one file must not take the others down with it.
        log.exception("internal error", file=str(job.key), exc_info=error)
        return StoreTemporary("store", job.key, f"internal error: {error!r}")
    if error.errno in _NO_FILE:
        return StorePermanent("read", job.key, str(error))
    return StoreTemporary("read", job.key, str(error))
